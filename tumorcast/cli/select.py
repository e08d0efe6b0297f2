"""The command select: parse, call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorcast.cli.forecast_options import (
    A_MODEL,
    Batch,
    Device,
    EngineCache,
    Growth,
    ProviderName,
    RelativeChange,
    Seed,
    Steps,
    engine_choice,
    forecast_settings,
)
from tumorcast.cli.options import ConfigFile, Json, Out, print_result, progress
from tumorcast.errors import InputError, UsageError

if TYPE_CHECKING:
    from tumorcast.data.cohort import Cohort
    from tumorcast.engines.protocol import Engine
    from tumorcast.forecasting.select import SelectGrid, Selection
    from tumorcast.forecasting.selection_scores import PatientCase
    from tumorcast.settings import ForecastSettings


def select(
    context: typer.Context,
    cohort: Annotated[Path, typer.Argument(help="A cohort file.")],
    model: Annotated[list[Path], typer.Option(help=A_MODEL)],
    patient: Annotated[str, typer.Option(help="The patient.")],
    out: Out,
    growth: Growth = None,
    horizon_days: Annotated[float | None, typer.Option(help="Days after the last scan.")] = None,
    relative_change: RelativeChange = None,
    grid: Annotated[Path | None, typer.Option(help="TOML file: noise_level, gain or scale, members.")] = None,
    slices: Annotated[int, typer.Option(min=1, help="The so many slices with most tumour are tried.")] = 1,
    seed: Seed = None,
    steps: Steps = None,
    batch: Batch = None,
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
    from tumorcast.forecasting.select import SelectGrid
    from tumorcast.forecasting.select import select as search
    from tumorcast.forecasting.selection_files import SCORES_FILE, TrialStore, write_selection
    from tumorcast.forecasting.selection_scores import PatientCase
    from tumorcast.settings import read_toml

    base = forecast_settings(context.params)
    points = SelectGrid.of(read_toml(grid) if grid else {}, str(grid or "tumorcast select"))
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
        case = PatientCase.of(opened, engine, read_growth(growth) if growth else None, plan)
        store = TrialStore.open(out / SCORES_FILE, _provenance(case, base, points, growth))
        with progress("settings", f"what was tried stands in {store.path}; start it again to go on") as tell:
            selection = search(
                lambda point: store.scores(point, lambda: case.scores(point.settings(base))),
                base,
                points,
                tell,
                noise_levels=engine.info.noise_levels,
            )
    write_selection(out, selection, base)
    print_result(as_json, {"out": str(out), "patient": patient} | _summary(selection))


def _check_fit(cohort: "Cohort", engine: "Engine", base: "ForecastSettings") -> None:
    from tumorcast.engines.protocol import check_same_images

    check_same_images(cohort, engine.info.images)
    if base.horizon_days is not None and not cohort.dated:
        raise InputError(
            f"{cohort.path}: its scans have no dates, so {base.horizon_days:g} days ahead means nothing; "
            "prepare it with --clinical, or give --relative-change"
        )


def _provenance(
    case: "PatientCase", base: "ForecastSettings", grid: "SelectGrid", growth: Path | None
) -> dict[str, Any]:
    from tumorcast.durable import sha256_of
    from tumorcast.version import VERSION

    return {
        "version": VERSION,
        "settings": base.model_dump(mode="json"),
        "grid": grid.model_dump(mode="json"),
        "patient": case.plan.patient_id,
        "slices": [planned.source_slice for planned in case.plan.slices],
        "cohort_sha256": case.cohort.sha256,
        "growth_sha256": sha256_of(growth) if growth else None,
        "model_sha256": case.engine.info.sha256,
        "engine": str(case.engine.provider),
    }


def _summary(selection: "Selection") -> dict[str, Any]:
    from dataclasses import asdict

    point, scores = selection.chosen, dict(selection.tried)[selection.chosen]
    chosen = {"noise_level": point.noise_level, point.strength_name: point.strength, "members": point.members}
    return {"tried": len(selection.tried), "chosen": chosen, "scores": asdict(scores) | {"score": scores.total}}
