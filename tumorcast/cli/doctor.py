"""The command doctor: parse, call, print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorcast.cli.forecast_options import A_BUNDLE, Device, EngineCache, PrecisionName, named_precision
from tumorcast.cli.options import Json, choice, progress
from tumorcast.errors import EngineError

if TYPE_CHECKING:
    from tumorcast.running.doctor import Check


def doctor(
    model: Annotated[Path | None, typer.Option(help=f"{A_BUNDLE}; default demo128.")] = None,
    provider: Annotated[str, typer.Option(help="To be checked: cpu, cuda, tensorrt or torch.")] = "cpu",
    precision: PrecisionName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    batch: Annotated[int, typer.Option(min=1, help="That of the forecasts to come; TensorRT builds for it.")] = 16,
    as_json: Json = False,
) -> None:
    """Check this machine: packages, GPUs, MPI, SLURM, and whether a provider gives what torch gives, and how fast."""
    from tumorcast.engines.locating import resolve
    from tumorcast.running.doctor import SHIPPED, EngineRequest, examine, failed
    from tumorcast.settings import Provider

    request = EngineRequest(
        resolve(model) if model else SHIPPED,
        choice(Provider, "--provider", provider),
        device,
        engine_cache,
        batch,
        named_precision(precision),
    )
    with progress("comparisons", "nothing was changed") as tell:
        checks = examine(request, tell)
    bad = failed(checks, request.provider)
    typer.echo(_json(checks, request.provider, bad) if as_json else "\n".join(_lines(checks)))
    if bad:
        raise typer.Exit(EngineError.exit_code)


def _json(checks: "list[Check]", provider: str, bad: bool) -> str:
    return json.dumps({"provider": provider, "ok": not bad, "checks": [check.record() for check in checks]})


def _lines(checks: "list[Check]") -> list[str]:
    """A line a check, in columns.

    >>> from tumorcast.running.doctor import Check, CheckStatus
    >>> _lines([Check("gpu", CheckStatus.FAILED, "none found", "ask for one")])
    ['gpu  FAILED  none found; do: ask for one']
    """
    width = max(len(check.name) for check in checks)
    remedies = (f"; do: {check.remedy}" if check.remedy else "" for check in checks)
    return [
        f"{check.name:<{width}}  {check.status:<6}  {check.message}{remedy}"
        for check, remedy in zip(checks, remedies, strict=True)
    ]
