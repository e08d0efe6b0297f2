"""The command import-adm: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from tumorcast.cli.options import Json, Out, contrasts_of, only_given, print_result, stoppable


def import_adm(
    out: Out,
    denoiser: Annotated[Path | None, typer.Option(help="A checkpoint of guided-diffusion's UNetModel.")] = None,
    regressor: Annotated[
        Path | None, typer.Option(help="One of its EncoderUNetModel with attention pooling and one output.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels a side; by default what the regressor tells.")] = None,
    denoiser_head_channels: Annotated[
        int | None, typer.Option(help="Width of an attention head; default one head, as the paper.")
    ] = None,
    regressor_head_channels: Annotated[
        int | None, typer.Option(help="The same of the regressor; default 64, as the paper.")
    ] = None,
    contrasts: Annotated[str, typer.Option(help="What each channel is, in order.")] = "t1n,t1c,t2w,t2f",
    noise_levels: Annotated[
        int | None, typer.Option(help="Diffusion times 0 … this - 1 were learned; default 1000.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read networks of openai/guided-diffusion, as the paper's denoiser is one, into RUN folders for forecast."""
    from tumorcast.training.import_adm import ImportSettings
    from tumorcast.training.import_adm import import_adm as run

    given = dict(
        image_size=image_size,
        denoiser_head_channels=denoiser_head_channels,
        regressor_head_channels=regressor_head_channels,
        contrasts=contrasts_of(contrasts),
        noise_levels=noise_levels,
    )
    settings = ImportSettings.of(only_given(given), "tumorcast import-adm")
    with stoppable(f"{out} may not be whole; remove it and start again"):
        networks = run(denoiser, regressor, out, settings)
    folders = {
        network.folder: {"parameters": network.parameters} | network.info.architecture.model_dump(mode="json")
        for network in networks
    }
    print_result(as_json, {"out": str(out)} | folders)
