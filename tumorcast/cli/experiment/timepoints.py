"""The command `experiment timepoints`."""

from tumorcast.cli.experiment.launch import Patients, SoFar, launch
from tumorcast.cli.experiment.sizes import SizeModelOptions, sizes_and_model
from tumorcast.cli.option_groups import grouped_options
from tumorcast.cli.options import Json, Out, exit_if_failed
from tumorcast.cli.size_options import ColumnOptions, Source


@grouped_options
def timepoints(
    *,
    source: Source,
    out: Out,
    sizes: SizeModelOptions,
    patients: Patients = None,
    columns: ColumnOptions,
    so_far: SoFar = False,
    as_json: Json = False,
) -> None:
    """How do forecasts fare with few or irregular scans? Each patient's last scan, forecast from fewer earlier ones."""
    from tumorcast.evaluation.experiments.scan_count import ScanCountExperiment

    data, model = sizes_and_model(source, sizes, columns, patients)
    launch(ScanCountExperiment(data, model), out, as_json, so_far=so_far)
    exit_if_failed(sum(outcome.status == "failed" for outcome in data.left_out))
