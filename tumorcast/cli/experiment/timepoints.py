"""The command `experiment timepoints`."""

import typer

from tumorcast.cli.experiment.launch import Patients, SoFar, launch
from tumorcast.cli.experiment.sizes import Size, sizes_and_model
from tumorcast.cli.fit import (
    ChemoEnd,
    ChemoStart,
    Companion,
    DayColumn,
    IdColumn,
    Law,
    Prior,
    Replicates,
    Resection,
    RtDose,
    RtEnd,
    RtFractions,
    RtStart,
    Seed,
    Source,
)
from tumorcast.cli.options import Json, Out, exit_if_failed


def timepoints(
    context: typer.Context,
    source: Source,
    out: Out,
    size_column: Size = "volume_mm3",
    companion_column: Companion = None,
    law: Law = None,
    prior: Prior = None,
    replicates: Replicates = None,
    seed: Seed = None,
    patients: Patients = None,
    id_column: IdColumn = "patient_id",
    day_column: DayColumn = "day",
    rt_start_column: RtStart = "rt_start_day",
    rt_end_column: RtEnd = "rt_end_day",
    rt_dose_column: RtDose = "dose",
    rt_fractions_column: RtFractions = "fractions",
    chemo_start_column: ChemoStart = "chemo_start_day",
    chemo_end_column: ChemoEnd = "chemo_end_day",
    resection_column: Resection = "resection_day",
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How do forecasts fare with few or irregular scans? Each patient's last scan, forecast from fewer earlier ones."""
    from tumorcast.evaluation.experiments.scan_count import ScanCountExperiment

    data, model = sizes_and_model(context.params)
    launch(ScanCountExperiment(data, model), out, as_json, so_far=so_far)
    exit_if_failed(sum(one.status == "failed" for one in data.left_out))
