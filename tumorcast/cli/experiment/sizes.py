"""Options and files of the experiments on sizes: ode and timepoints."""

from typing import Annotated, Any

import typer

from tumorcast.cli.fit import FIT_SETTINGS, LEAVE_ONE_OUT, NO_PRIOR, growth_model_of
from tumorcast.cli.options import only_given
from tumorcast.cli.size_options import hints_of, read_size_source, size_columns, tell_balance, tell_hints
from tumorcast.errors import UsageError

Size = Annotated[str, typer.Option("--size-column", help="volume_mm3 or area_mm2 of a cohort; any column of a table.")]


def sizes_and_model(options: dict[str, Any]) -> tuple[Any, Any]:
    """The patients' sizes, and the growth model that forecasts them.

    Raises UsageError for a prior that knows their future, or for none, without which there is no population to pool.
    """
    import hashlib

    from tumorcast.durable import sha256_of
    from tumorcast.evaluation.experiments.size_methods import SizeData
    from tumorcast.growth.settings import FitSettings
    from tumorcast.growth.size_table import SizeBalance

    if options["prior"] == NO_PRIOR:
        raise UsageError(
            "--prior none: forecasters of a population are compared, and the growth law of the patient alone stands "
            "among them anyway; give shipped, leave-one-out or a file"
        )
    settings = FitSettings.of(only_given({name: options.get(name) for name in FIT_SETTINGS}), "tumorcast experiment")
    model_of, prior, companion = growth_model_of(
        settings, options | {"forecaster": "pooled", "out": None, "plots": None}
    )
    columns = size_columns(options | {"companion_column": companion})
    table = read_size_source(options["source"], columns)
    tell_hints(options["source"], hints_of(table, columns, options))
    tell_balance(options["source"], SizeBalance.of(table, table.outcomes))
    digest = sha256_of(options["source"])
    if prior is not None and digest in prior.source:
        raise UsageError(
            f"--prior: it was learnt from {options['source']}, and so knows what is to be forecast; "
            f"give --prior {LEAVE_ONE_OUT}"
        )
    prior_digest = LEAVE_ONE_OUT if prior is None else hashlib.sha256(prior.to_json().encode()).hexdigest()
    provenance = {"source_sha256": digest, "columns": vars(columns), "prior": prior_digest}
    return SizeData(table.series, provenance, table.outcomes, options["patients"]), model_of(table.series)
