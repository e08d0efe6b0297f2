"""Population forecasters side by side on scans whose size is known: learnt from other patients, scored, and compared.

Every scan with two earlier ones is forecast from them. Scores are those of scores.py, of y = log(v + 100 mm³) with no
quantile below that of 0 mm³. Persons are the unit of every interval and test, for the scans of one are not independent.
The growth law has no weight in the pool here: it is fitted to each patient, which heldout.py does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import special

from tumorcast.growth.forecast import LEVELS
from tumorcast.growth.heldout import HeldOut, mean_scores
from tumorcast.growth.population.autoregression import Persistence
from tumorcast.growth.population.baselines import CohortSteps, Line, LinearRegression
from tumorcast.growth.population.combined import CombinedForecast
from tumorcast.growth.population.history import History
from tumorcast.growth.population.kinds import floored, is_nothing
from tumorcast.growth.population.pool import Pool
from tumorcast.growth.population.state_space import StateSpaceMixture
from tumorcast.growth.prior import SizePrior
from tumorcast.growth.scores import crps
from tumorcast.records import SizeSeries

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

REFERENCES = ("persistence", "pool")
DRAWS = 2000  # of the bootstrap
MOST_EARLIER = 4  # scans; more are counted together
THIRDS = ("short", "middle", "long")


@dataclass(frozen=True)
class Case:
    """A scan that is forecast from all that came before it.

    person: whose it is, under whatever id. log_size: its y. operated: whether an operation is known between the last
    scan and it, or between the two scans before.
    """

    patient_id: str
    person: str
    history: History
    horizon_days: float
    log_size: float
    operated: bool


def rolling_cases(cohort: Sequence[SizeSeries], same_person: Mapping[str, str] | None = None) -> list[Case]:
    """Every scan with two earlier ones. same_person: of an id, another one that is the same person."""
    persons = same_person or {}
    cases = []
    for series in cohort:
        history, days = History.of(series), series.days
        for scan in HeldOut.ROLLING.counts(days.size):
            operated = any(days[scan - 2] <= day < days[scan] for day in series.treatment.resection_days)
            person = persons.get(series.patient_id, series.patient_id)
            ahead = float(days[scan] - days[scan - 1])
            y = float(history.log_sizes[scan])
            cases.append(Case(series.patient_id, person, history.first(scan), ahead, y, operated))
    return cases


def folds_of(persons: Sequence[str], count: int, seed: int) -> npt.NDArray[np.int64]:
    """(N,) the fold, 0 … count - 1, of each of persons: (N,); a person's entries share one. Folds are equally large.

    >>> folds_of(["a", "b", "a"], 2, 0).tolist() in ([0, 1, 0], [1, 0, 1])
    True
    """
    distinct = sorted(set(persons))
    order = np.random.default_rng(seed).permutation(len(distinct))
    fold = {distinct[each]: place % count for place, each in enumerate(order)}
    return np.array([fold[person] for person in persons], dtype=np.int64)


@dataclass(frozen=True)
class Contestants:
    """The forecasters that are compared. steps, regression: None where there is no cohort that they learnt from."""

    persistence: Persistence
    pool: Pool
    mixture: StateSpaceMixture
    steps: CohortSteps | None
    regression: LinearRegression | None

    @classmethod
    def learnt(cls, histories: Sequence[History]) -> Self:
        """All learnt from the same patients. Raises ValueError for fewer than ten changes of size."""
        return cls(
            Persistence.fitted(histories),
            Pool.fitted(histories, mechanistic_weight=0.0),
            StateSpaceMixture.fitted(histories),
            CohortSteps.fitted(histories),
            LinearRegression.fitted(histories),
        )

    @classmethod
    def of_prior(cls, prior: SizePrior, histories: Sequence[History] = ()) -> Self:
        """Those of a prior; steps and regression are learnt from the histories, where there are any.

        Raises ValueError for a prior without mixture.
        """
        if prior.state_space is None:
            raise ValueError(
                f"the prior of '{prior.size_name}' is of an older tumorcast and has no state-space mixture"
            )
        steps = CohortSteps.fitted(histories) if histories else None
        regression = LinearRegression.fitted(histories) if histories else None
        return cls(prior.persistence, prior.pool, prior.state_space, steps, regression)

    def quantiles(self, case: Case) -> dict[str, Array]:
        """(Q,) y at forecast.LEVELS by forecaster."""
        models = (self.persistence, self.steps, self.regression, Line(persistence=self.persistence))
        told: dict[str, Array] = {
            model.name: floored(model.quantiles(case.history, case.horizon_days, LEVELS))
            for model in models
            if model is not None
        }
        told["pool"] = floored(self.pool.quantiles(case.history, case.horizon_days, LEVELS))
        mixture, ahead = self.mixture.given(case.history), np.array([case.horizon_days])
        (told["state_space"],) = mixture.quantiles(ahead, LEVELS)
        (told["combined"],) = CombinedForecast(mixture, self.pool).quantiles(ahead, LEVELS)
        return told


def cross_validated(
    cohort: Sequence[SizeSeries], folds: int, seed: int, same_person: Mapping[str, str] | None = None
) -> "Comparison":
    """Each fold of the persons forecast by what the other folds teach."""
    persons = [(same_person or {}).get(series.patient_id, series.patient_id) for series in cohort]
    fold_of = dict(zip(persons, folds_of(persons, folds, seed).tolist(), strict=True))
    cases = rolling_cases(cohort, same_person)
    rows: list[dict[str, Array]] = [{} for _ in cases]
    for fold in range(folds):
        others = [History.of(each) for each, who in zip(cohort, persons, strict=True) if fold_of[who] != fold]
        learnt = Contestants.learnt(others)
        for number, case in enumerate(cases):
            if fold_of[case.person] == fold:
                rows[number] = learnt.quantiles(case)
    return Comparison.of(cases, rows)


def scored_on(cohort: Sequence[SizeSeries], contestants: Contestants) -> "Comparison":
    """A cohort of which the contestants know nothing."""
    cases = rolling_cases(cohort)
    return Comparison.of(cases, [contestants.quantiles(case) for case in cases])


@dataclass(frozen=True)
class Comparison:
    """Forecasts of C cases. quantiles: (C, Q) y at forecast.LEVELS by forecaster."""

    cases: Sequence[Case]
    quantiles: Mapping[str, Array]

    @classmethod
    def of(cls, cases: Sequence[Case], rows: Sequence[Mapping[str, Array]]) -> Self:
        """From each case's own quantiles by forecaster."""
        return cls(cases, {name: np.stack([row[name] for row in rows]) for name in rows[0]})

    @cached_property
    def truth(self) -> Array:
        """(C,) y that came."""
        return np.array([case.log_size for case in self.cases])

    @cached_property
    def crps(self) -> dict[str, Array]:
        """(C,) by forecaster."""
        return {name: crps(rows, LEVELS, self.truth) for name, rows in self.quantiles.items()}

    @cached_property
    def third_days(self) -> Array:
        """(2,) horizons between the thirds of all cases; one of exactly so many days is in the longer third."""
        return np.quantile([case.horizon_days for case in self.cases], [1 / 3, 2 / 3])

    @cached_property
    def strata(self) -> dict[str, Mask]:
        """(C,) which cases are in it, by the name of the stratum."""
        third = np.digitize([case.horizon_days for case in self.cases], self.third_days)
        earlier = np.minimum([case.history.days.size for case in self.cases], MOST_EARLIER)
        zero = is_nothing(np.array([case.history.log_sizes[-1] for case in self.cases]))
        operated = np.array([case.operated for case in self.cases])
        by_count = {f"{count} earlier scans": earlier == count for count in range(2, MOST_EARLIER)}
        return {
            **{f"{name} horizon": third == number for number, name in enumerate(THIRDS)},
            **by_count,
            f"{MOST_EARLIER} earlier scans or more": earlier == MOST_EARLIER,
            "after zero": zero,
            "after non-zero": ~zero,
            "after an operation": operated,
        }

    def part(self, patients: frozenset[str] | None) -> Mask:
        """(C,) which cases are of these patients; all for None."""
        return np.array([patients is None or case.patient_id in patients for case in self.cases], dtype=np.bool_)

    def report(self, which: Mask) -> dict[str, Any]:
        """The figures of the cases in which: (C,), by forecaster, with counts; for JSON."""
        strata = {name: which & stratum for name, stratum in self.strata.items()}
        return {
            "cases": int(which.sum()),
            "patients": len(set(self._persons(which))),
            "strata": {name: int(mask.sum()) for name, mask in strata.items()},
            "forecasters": {
                name: self._figures(name, which)
                | {"strata": {each: self._in_stratum(name, mask) for each, mask in strata.items() if mask.any()}}
                for name in (self.quantiles if which.any() else ())
            },
        }

    def _figures(self, name: str, which: Mask) -> dict[str, Any]:
        persons, ours = self._persons(which), self.crps[name][which]
        figures: dict[str, Any] = dict(mean_scores(self.quantiles[name][which], self.truth[which]))
        for reference in REFERENCES:
            theirs = self.crps[reference][which]
            low, high = ratio_interval(ours, theirs, persons)
            statistic, p = diebold_mariano(ours, theirs, persons)
            figures[f"over_{reference}"] = {
                "crps_ratio": float(ours.mean() / theirs.mean()),
                "low": low,
                "high": high,
                "diebold_mariano": statistic,
                "p": p,
            }
        return figures

    def _in_stratum(self, name: str, which: Mask) -> dict[str, Any]:
        told = mean_scores(self.quantiles[name][which], self.truth[which])
        ratios = {
            f"over_{reference}": float(self.crps[name][which].mean() / self.crps[reference][which].mean())
            for reference in REFERENCES
        }
        return {"cases": int(which.sum()), "crps": told["crps"], **ratios, "coverage90": told["coverage90"]}

    def _persons(self, which: Mask) -> list[str]:
        return [case.person for case, mine in zip(self.cases, which.tolist(), strict=True) if mine]


def ratio_interval(ours: Array, theirs: Array, persons: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % interval of mean(ours) / mean(theirs), (C,) each: persons: (C,) are drawn anew, with all their cases.

    The percentiles of DRAWS draws, both means of the same draw (paired).
    """
    _, index = np.unique(np.asarray(persons), return_inverse=True)
    sums, their_sums = np.bincount(index, ours), np.bincount(index, theirs)
    drawn = np.random.default_rng(seed).integers(0, sums.size, (DRAWS, sums.size))
    low, high = np.quantile(sums[drawn].sum(axis=1) / their_sums[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def diebold_mariano(ours: Array, theirs: Array, persons: Sequence[str]) -> tuple[float | None, float | None]:
    """Statistic and two-sided p of equal expected losses, (C,) each; the statistic is negative where ours are less.

    That of Diebold & Mariano 1995, the mean difference over its standard error, with persons: (C,) for the blocks of
    correlated differences in place of lags: the variance of the mean is P / (P - 1) Σ_i (Σ_j (d_ij - d̄))² / C² (a
    cluster-robust one; Cameron & Miller 2015) and p is Student's t of P - 1 degrees of freedom. None where nothing
    differs, or with fewer than two persons.

    >>> statistic, p = diebold_mariano(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 5.0]), ["a", "b", "c"])
    >>> round(statistic, 3), round(p, 3)
    (-1.732, 0.225)
    """
    differences = ours - theirs
    _, index = np.unique(np.asarray(persons), return_inverse=True)
    sums = np.bincount(index, differences - differences.mean())
    persons_count = sums.size
    if persons_count < 2 or not np.any(sums):
        return None, None
    error = np.sqrt(persons_count / (persons_count - 1) * np.sum(sums**2)) / differences.size
    statistic = float(differences.mean() / error)
    return statistic, float(2 * special.stdtr(persons_count - 1, -abs(statistic)))
