"""The command export (also `tumorcast-export`): parse, call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorcast.cli.forecast_options import Device, EngineCache, ProviderName
from tumorcast.cli.options import Json, choice, print_result, progress
from tumorcast.errors import InputError, UsageError

if TYPE_CHECKING:
    from tumorcast.engines.export import ExportSettings
    from tumorcast.settings import CheckDepth


def export(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="RUN folders, or a folder of them; a progression network on volumes may be alone. With --check or "
            "--build a bundle, or a shipped one's name."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The bundle, a new folder.")] = None,
    precision: Annotated[str, typer.Option(help="Of the denoiser: fp32, fp16 or bf16.")] = "fp32",
    max_batch: Annotated[int, typer.Option(min=1, help="The largest batch that the graphs take.")] = 64,
    boxes: Annotated[
        bool,
        typer.Option(
            help="Also graphs that compute what lies round the tumour alone: forecasts with them are about three times "
            "faster, and their maps a little different (docs/decisions/0014). Minutes more to export."
        ),
    ] = False,
    cohort: Annotated[Path | None, typer.Option(help="A cohort whose slices the graphs are compared on.")] = None,
    check: Annotated[
        str,
        typer.Option(
            help="How graphs are compared with torch: full (all noise levels and inputs), or quick (one slice at two "
            "levels, a minute for the largest networks). Without --out a bundle is compared again and nothing is made."
        ),
    ] = "",
    build: Annotated[str, typer.Option(help="tensorrt: build its engines ahead, on this machine's GPU.")] = "",
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    batch: Annotated[int, typer.Option(min=1, help="--build: the --batch of the forecasts to come.")] = 16,
    as_json: Json = False,
) -> None:
    """Export networks to an engine bundle: ONNX graphs with the guidance inside, checked against torch."""
    if build not in ("", "tensorrt"):
        raise UsageError(f"--build {build}: only tensorrt is built ahead")
    if out is None and not check and not build:
        raise UsageError("give --out BUNDLE to export RUN folders, or --check full or --build tensorrt with a BUNDLE")
    from tumorcast.engines.locating import locate
    from tumorcast.settings import CheckDepth, Precision

    depth = choice(CheckDepth, "--check", check or "full")
    folders = [locate(model) for model in models]
    result: dict[str, object] = {}
    if out is not None:
        from tumorcast.engines.export import ExportSettings

        settings = ExportSettings(choice(Precision, "--precision", precision), max_batch, boxes)
        result |= _make(folders, out, settings, cohort, depth)
    elif check:
        result |= _check(_only_bundle(folders), cohort, provider, device, engine_cache, depth)
    if build:
        result |= _build(out or _only_bundle(folders), device, engine_cache, batch)
    print_result(as_json, result)


def _only_bundle(folders: list[Path]) -> Path:
    from tumorcast.engines.bundle import is_bundle

    if len(folders) != 1:
        raise UsageError(f"{len(folders)} folders given, but --check and --build take one bundle")
    if not is_bundle(folders[0]):
        raise InputError(
            f"{folders[0]}: holds RUN folders and no bundle; make one with --out BUNDLE, and --check full that"
        )
    return folders[0]


def _make(
    folders: list[Path], out: Path, settings: "ExportSettings", cohort: Path | None, depth: "CheckDepth"
) -> dict[str, object]:
    from tumorcast.engines.make import make_bundle

    if_stopped = f"{out} was not written; what was done is kept beside it, start the same again to go on"
    with progress("graphs, then comparisons", if_stopped) as tell:
        manifest = make_bundle(folders, out, settings, cohort, tell, depth=depth)
    return {
        "out": str(out),
        "precision": str(settings.precision),
        "check": str(depth),
        "checked_with": manifest.checked_with,
        "parity": {name: part.model_dump() for name, part in manifest.parity.items()},
    }


def _check(
    bundle_folder: Path, cohort: Path | None, provider: str, device: str | None, cache: Path | None, depth: "CheckDepth"
) -> dict[str, object]:
    from tumorcast.engines.make import check_bundle
    from tumorcast.engines.opening import device_index
    from tumorcast.settings import Provider

    named = choice(Provider, "--provider", provider or "cpu")
    if named is Provider.TORCH:
        raise UsageError("--provider torch: it is what a bundle is compared with; give cpu, cuda or tensorrt")
    with progress("comparisons", "nothing was changed") as tell:
        parity = check_bundle(
            bundle_folder, cohort, named, tell, device=device_index(named, device), cache=cache, depth=depth
        )
    differences = {name: part.model_dump() for name, part in parity.items()}
    return {"bundle": str(bundle_folder), "check": str(depth), "provider": str(named), "parity": differences}


def _build(bundle_folder: Path, device: str | None, cache: Path | None, batch: int) -> dict[str, object]:
    from tumorcast.engines.make import build_tensorrt
    from tumorcast.engines.opening import device_index
    from tumorcast.settings import Provider

    with progress("graphs", "finished engines are kept; start it again") as tell:
        built_for = build_tensorrt(bundle_folder, device_index(Provider.TENSORRT, device), cache, batch, tell)
    return {"bundle": str(bundle_folder), "built_for": built_for}
