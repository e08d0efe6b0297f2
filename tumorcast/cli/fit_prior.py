"""The command `fit-prior`: parse, call, print."""

from dataclasses import dataclass
from typing import Annotated

from tumorcast.cli.option_groups import grouped_options
from tumorcast.cli.options import Json, Out, check_outputs, exit_if_failed, print_result, progress
from tumorcast.cli.size_options import (
    RadiotherapyColumnOptions,
    Resection,
    Source,
    hints_of,
    option,
    read_size_source,
    tell_hints,
    tell_patients,
)
from tumorcast.errors import UsageError
from tumorcast.version import VERSION


@dataclass(frozen=True)
class PriorColumnOptions(RadiotherapyColumnOptions):
    """And that of resections: a prior knows no chemotherapy."""

    resection_column: Resection = "resection_day"


@grouped_options
def fit_prior(
    *,
    source: Source,
    out: Out,
    size_column: Annotated[list[str], option("A column of sizes; repeat for several. The last stands in for others.")],
    companion: Annotated[
        list[str] | None, option("SIZE=COLUMN: another compartment to look at in forecasts of SIZE; repeat.")
    ] = None,
    seed: Annotated[int, option("Of the draws of the estimation.")] = 0,
    columns: PriorColumnOptions,
    as_json: Json = False,
) -> None:
    """Estimate from a cohort what it tells of the next patient: growth laws, members that share information."""
    from tumorcast.durable import sha256_of
    from tumorcast.growth.estimate_prior import estimate_prior
    from tumorcast.growth.prior import PopulationPrior
    from tumorcast.growth.size_table import SizeBalance

    check_outputs({"--out": out}, [source])
    sizes, failed, companions = {}, 0, _companions(companion or [], size_column)
    with progress("columns of sizes", "nothing was written; start it again") as tell:
        for number, name in enumerate(size_column):
            named = columns.of_size(name, companions.get(name, ""))
            table = read_size_source(source, named)
            tell_hints(source, hints_of(table, named, columns))
            tell_patients(source, table.outcomes, SizeBalance.of(table, table.outcomes))
            failed = max(failed, sum(outcome.status == "failed" for outcome in table.outcomes))
            sizes[name] = estimate_prior(table.series, companion=companions.get(name), seed=seed)
            tell(number + 1, len(size_column))
    made_from = f"{source.name} (SHA-256 {sha256_of(source)}), tumorcast {VERSION}, seed {seed}"
    PopulationPrior(source=made_from, default_size=size_column[-1], sizes=sizes).write(out)
    counts = {
        name: {
            "patients": prior.patients,
            "scans": prior.scans,
            "mechanistic_weights": {str(law): weight for law, weight in prior.mechanistic_weights.items()},
        }
        for name, prior in sizes.items()
    }
    print_result(as_json, {"out": str(out), "failed": failed, "sizes": counts})
    exit_if_failed(failed)


def _companions(pairs: list[str], sizes: list[str]) -> dict[str, str]:
    """The companion of each size. Raises UsageError for what is not SIZE=COLUMN."""
    companions = {}
    for pair in pairs:
        size, _, column = pair.partition("=")
        if size not in sizes or not column:
            raise UsageError(f"--companion {pair}: give SIZE=COLUMN, SIZE being one of {', '.join(sizes)}")
        companions[size] = column
    return companions
