"""The command select: parse, call, print."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.export import A_MODEL, Device, EngineCache, ProviderName, engine_choice
from tumorcast.cli.forecast import forecast_settings
from tumorcast.cli.options import ConfigFile, Json, Out, print_result, progress
from tumorcast.errors import InputError, UsageError

if TYPE_CHECKING:
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.protocol import Engine
    from tumorcast.forecasting.select import PatientCase, SelectGrid, Selection
    from tumorcast.settings import ForecastSettings


def select(
    context: typer.Context,
    cohort: Annotated[Path, typer.Argument(help="A cohort file.")],
    model: Annotated[list[Path], typer.Option(help=A_MODEL)],
    patient: Annotated[str, typer.Option(help="The patient.")],
    out: Out,
    growth: Annotated[Path | None, typer.Option(help="growth.h5, needed with --horizon-days.")] = None,
    horizon_days: Annotated[float | None, typer.Option(help="Days after the last scan.")] = None,
    relative_change: Annotated[float | None, typer.Option(help="Change of area wanted: 0.25 is 25 % more.")] = None,
    grid: Annotated[Path | None, typer.Option(help="TOML file: noise_level, gain or scale, members.")] = None,
    slices: Annotated[int, typer.Option(min=1, help="The so many slices with most tumour are tried.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Of the members' noise and targets.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps each way.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images that go through a network together.")] = None,
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Choose settings for one patient by what is known before the next scan. Starting again resumes."""
    from tumorcast.archive.growth_file import read_growth
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.opening import open_engine
    from tumorcast.forecasting.plan import plan_patient
    from tumorcast.forecasting.select import PatientCase, SelectGrid
    from tumorcast.forecasting.select import TrialStore as Store
    from tumorcast.forecasting.select import select as search
    from tumorcast.settings import read_toml

    base = forecast_settings(context.params)
    wanted = SelectGrid.of(read_toml(grid) if grid else {}, str(grid or "tumorcast select"))
    if base.horizon_days is not None and growth is None:
        raise UsageError("--horizon-days needs --growth growth.h5 (`tumorcast fit`); or give --relative-change")
    engine = open_engine(engine_choice(model, provider, device, cache=engine_cache, rows=base.batch))
    with Cohort.open(cohort) as opened:
        _check_fit(opened, engine, base)
        plan = plan_patient(opened, patient, slices)
        if not plan.slices:
            raise InputError(
                f"{cohort}: the last scan of {patient} shows no tumour to forecast; give another --patient"
            )
        case = PatientCase(opened, engine, read_growth(growth) if growth else None, plan)
        store = Store.open(out / "scores.json", _made_of(case, base, wanted, growth))
        with progress("settings", f"what was tried stands in {store.path}; start it again to go on") as tell:
            found = search(case, base, wanted, store, tell)
    _write(out, found, base)
    print_result(as_json, {"out": str(out), "patient": patient} | _told(found))


def _check_fit(cohort: "Cohort", engine: "Engine", base: "ForecastSettings") -> None:
    from tumorcast.engines.protocol import check_same_images

    check_same_images(cohort, engine.info.images)
    if base.horizon_days is not None and not cohort.dated:
        raise InputError(
            f"{cohort.path}: its scans have no dates, so {base.horizon_days:g} days ahead means nothing; "
            "prepare it with --clinical, or give --relative-change"
        )


def _made_of(case: "PatientCase", base: "ForecastSettings", grid: "SelectGrid", growth: Path | None) -> dict[str, Any]:
    from tumorcast.durable import sha256_of
    from tumorcast.version import VERSION

    return {
        "version": VERSION,
        "settings": base.model_dump(mode="json"),
        "grid": grid.model_dump(mode="json"),
        "patient": case.plan.patient_id,
        "slices": [place.source_slice for place in case.plan.slices],
        "cohort_sha256": case.cohort.sha256,
        "growth_sha256": sha256_of(growth) if growth else None,
        "model_sha256": case.engine.info.sha256,
        "engine": str(case.engine.provider),
    }


def _write(out: Path, found: "Selection", base: "ForecastSettings") -> None:
    from tumorcast.durable import written_whole
    from tumorcast.forecasting.select import table_of_scores, toml_of

    rows = table_of_scores(found)
    with written_whole(out / "scores.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with written_whole(out / "forecast.toml") as temporary:
        temporary.write_text(toml_of(found.chosen.settings(base)), encoding="utf-8")


def _told(found: "Selection") -> dict[str, Any]:
    from dataclasses import asdict

    scores = dict(found.tried)[found.chosen]
    chosen = {
        "noise_level": found.chosen.noise_level,
        found.chosen.strength_name: found.chosen.strength,
        "members": found.chosen.members,
    }
    return {"tried": len(found.tried), "chosen": chosen, "scores": asdict(scores) | {"score": scores.total}}
