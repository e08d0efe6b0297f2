"""Options and data of the experiments on sizes: ode and timepoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tumorcast.cli.options import only_given
from tumorcast.cli.size_options import (
    ColumnOptions,
    Companion,
    Law,
    Prior,
    Replicates,
    Seed,
    hints_of,
    option,
    read_size_source,
    tell_balance,
    tell_hints,
)
from tumorcast.errors import UsageError

if TYPE_CHECKING:
    from tumorcast.evaluation.experiments.size_methods import SizeData
    from tumorcast.growth.model import GrowthModel


@dataclass(frozen=True)
class SizeModelOptions:
    """The sizes of a source, and the growth model that forecasts them."""

    size_column: Annotated[str, option("volume_mm3 or area_mm2 of a cohort; any column of a table.")] = "volume_mm3"
    companion_column: Companion = None
    law: Law = None
    prior: Prior = None
    replicates: Replicates = None
    seed: Seed = None


def sizes_and_model(
    source: Path, options: SizeModelOptions, columns: ColumnOptions, patients: int | None
) -> "tuple[SizeData, GrowthModel]":
    """The patients' sizes, and the growth model that forecasts them.

    Raises UsageError for a prior that knows their future, or for none, without which there is no population to pool.
    """
    import hashlib

    from tumorcast.durable import sha256_of
    from tumorcast.evaluation.experiments.size_methods import SizeData
    from tumorcast.growth.model import GrowthModelSpec, PriorSource
    from tumorcast.growth.settings import FitSettings
    from tumorcast.growth.size_table import SizeBalance
    from tumorcast.records import Forecaster

    if options.prior == PriorSource.NONE:
        raise UsageError(
            "--prior none: forecasters of a population are compared, and the growth law of the patient alone stands "
            "among them anyway; give shipped, leave-one-out or a file"
        )
    given = only_given({"law": options.law, "replicates": options.replicates, "seed": options.seed})
    spec = GrowthModelSpec.of(
        FitSettings.of(given, "tumorcast experiment"),
        options.size_column,
        prior=options.prior,
        forecaster=Forecaster.COMBINED,
        companion=options.companion_column,
    )
    named = columns.of_size(options.size_column, spec.companion)
    table = read_size_source(source, named)
    tell_hints(source, hints_of(table, named, columns))
    tell_balance(source, SizeBalance.of(table, table.outcomes))
    digest = sha256_of(source)
    if spec.prior is not None and digest in spec.prior.source:
        raise UsageError(
            f"--prior: it was learnt from {source}, and so knows what is to be forecast; "
            f"give --prior {PriorSource.LEAVE_ONE_OUT}"
        )
    prior_digest = (
        str(PriorSource.LEAVE_ONE_OUT)
        if spec.prior is None
        else hashlib.sha256(spec.prior.to_json().encode()).hexdigest()
    )
    provenance = {"source_sha256": digest, "columns": vars(named), "prior": prior_digest}
    return SizeData(table.series, provenance, table.outcomes, patients), spec.model(table.series)
