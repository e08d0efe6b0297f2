"""Options of forecasts, shared by commands: the model, what computes, the ensemble, the sampler."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.options import choice, only_given, origin_of, table_of
from tumorcast.errors import UsageError

if TYPE_CHECKING:
    from tumorcast.engines.opening import EngineChoice
    from tumorcast.settings import ForecastSettings, Precision

A_BUNDLE = "An engine bundle, or the name of a shipped one (demo128, t1c128)"
A_MODEL = f"{A_BUNDLE}; or RUN folders, or a folder of them: repeat as needed."

ProviderName = Annotated[
    str, typer.Option("--provider", help="torch, or for a bundle: cpu, cuda, tensorrt. Default: cpu, torch for RUNs.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 …")]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision",
        help="torch: fp32, fp16 or bf16 of the denoiser; networks then run in the form of bundles, on a GPU as CUDA "
        "graphs. Default: the reference, in fp32.",
    ),
]
EngineCache = Annotated[
    Path | None, typer.Option("--engine-cache", help="Where TensorRT engines lie; default BUNDLE/tensorrt.")
]

Members = Annotated[int | None, typer.Option("--members", help="Members of the ensemble.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the members' noise.")]
MaxSlices = Annotated[
    int | None, typer.Option("--max-slices", help="The so many slices with most tumour; default all.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps each way.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Images that go through a network together.")]
KeepMembers = Annotated[
    bool | None, typer.Option("--keep-members/--no-keep-members", help="Keep every member's image.")
]
RelativeChange = Annotated[
    float | None, typer.Option("--relative-change", help="Change of area wanted: 0.25 is 25 % more.")
]
Place = Annotated[
    Path | None,
    typer.Option(
        "--place",
        help="What foretells where tumours go: front, a folder of fit-place, a bundle, a RUN; or slices, one by one. "
        "Default: the model's network on volumes, or else front.",
    ),
]
LeftOut = Annotated[
    bool, typer.Option("--left-out", help="Each patient by a model of --place that has not learned from them.")
]
BeforeLastScan = Annotated[
    bool, typer.Option("--before-last-scan", help="Forecast as if each patient's last scan were yet to come.")
]
MapsOnly = Annotated[
    bool | None, typer.Option("--maps-only/--no-maps-only", help="Sizes and growth maps in 3-D, no images.")
]
Growth = Annotated[Path | None, typer.Option("--growth", help="growth.h5, needed with --horizon-days.")]

SAMPLER = ("preset", "noise_level", "steps", "guidance", "gain", "scale")
ENSEMBLE = (
    "horizon_days",
    "later_horizons",
    "maps_only",
    "relative_change",
    "members",
    "seed",
    "max_slices",
    "batch",
    "block",
    "keep_members",
)
OF_IMAGES = ("seed", "max_slices", "batch", "block", "keep_members", "change_threshold")  # and all of the sampler's
LARGE_CHANGE = 2.0  # of area: above it one may have meant per cent


def engine_choice(
    model_paths: list[Path],
    provider: str,
    device: str | None,
    *,
    rows: int | None = None,
    cache: Path | None = None,
    precision: str = "",
) -> "EngineChoice":
    """What the options ask for."""
    from tumorcast.engines.opening import EngineChoice
    from tumorcast.settings import Provider

    named = choice(Provider, "--provider", provider) if provider else None
    return EngineChoice(
        tuple(model_paths),
        named,
        device,
        rows,
        cache,
        named_precision(precision),
    )


def named_precision(text: str) -> "Precision | None":
    """That of --precision; None where it was not given."""
    from tumorcast.settings import Precision

    return choice(Precision, "--precision", text) if text else None


def horizons_of(text: str) -> dict[str, Any]:
    """The settings that --horizon-days stands for. Raises UsageError for what is no number.

    >>> horizons_of("30,90"), horizons_of("")
    ({'horizon_days': 30.0, 'later_horizons': (90.0,)}, {'horizon_days': None, 'later_horizons': None})
    """
    try:
        days = [float(part) for part in text.split(",")] if text.strip() else [None]
    except ValueError:
        raise UsageError(f"--horizon-days {text}: give days after the last scan, as 90 or 30,90,180") from None
    return {"horizon_days": days[0], "later_horizons": tuple(days[1:]) or None}


def forecast_settings(options: dict[str, Any]) -> "ForecastSettings":
    """Settings from the file, overruled by the options; the paper's preset is laid below both."""
    from tumorcast.settings import ForecastSettings, Preset, SamplerSettings, read_toml

    config = options["config"]
    values = read_toml(config) if config else {}
    sampler = table_of(values.pop("sampler", {}), "sampler", config)
    sampler |= only_given({name: options.get(name) for name in SAMPLER})
    given = values | only_given({name: options.get(name) for name in ENSEMBLE})
    if given.get("maps_only"):
        _refuse_of_images([*sampler, *(name for name in OF_IMAGES if given.get(name) not in (None, False))], options)
    if sampler.get("preset") == Preset.PAPER:
        sampler = SamplerSettings.paper().model_dump() | sampler
    settings = ForecastSettings.of(given | {"sampler": sampler}, origin_of(config, "tumorcast forecast"))
    change = settings.relative_change
    if change is not None and change > LARGE_CHANGE:
        typer.echo(
            f"relative change {change:g}: {1 + change:g} times the present area; {change:g} % is {change / 100:g}",
            err=True,
        )
    return settings


def _refuse_of_images(names: list[str], options: dict[str, Any]) -> None:
    """Raises UsageError for settings that mean nothing without images: growth maps have no noise and no sampler."""
    if names:
        told = [
            f"{name} of {options['config']}" if options.get(name) is None else f"--{name.replace('_', '-')}"
            for name in names
        ]
        raise UsageError(
            f"--maps-only with {', '.join(told)}: growth maps are made without images, noise or sampler; leave out "
            f"{'that' if len(told) == 1 else 'those'}, or --maps-only"
        )
