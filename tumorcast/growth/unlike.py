"""Whether a cohort looks unlike the patients that a prior was learnt from: how much its scans surprise the prior.

Of every scan but a patient's first the prior's state-space mixture, given the scans before, holds some sizes likelier
than others. The surprise of a scan is by how much its log score falls short of that which the mixture itself expects:

s = ∫₀¹ ln f(q(p)) dp - ln f(y)   in nats, with q the quantiles, f the density (where nothing is seen, the chance of it)

Irregular patients and small tumours, of which the mixture expects little, have no greater surprise for that. No mixture
is quite true, so that of new patients like the prior's is not 0 on average: what is usual is measured when the prior is
learnt, each fold of the patients by a mixture of the others, and kept in the prior. Patients' mean surprises (the scans
of one are not independent) are compared with the usual ones by a one-sided t test of unequal variances (Welch 1947).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tumorcast.counted import counted
from tumorcast.growth.population.combined import DENSITY_LEVELS, log_density
from tumorcast.growth.population.history import History
from tumorcast.growth.population.state_space import StateSpaceMixture
from tumorcast.growth.prior import SizePrior, UsualSurprise
from tumorcast.records import SizeSeries

Array = npt.NDArray[np.float64]

FEWEST_PATIENTS = 10  # with two scans or more: of fewer nothing is said
MOST_PATIENTS = 200  # looked at, spread evenly over the cohort
SIGNIFICANT = 0.01
FOLDS = 5
FEWEST_LEARNT = 20  # patients with two scans or more, to measure what is usual by


@dataclass(frozen=True)
class Surprise:
    """Of a cohort under a prior. mean, usual: of the patients' mean surprises, nats a scan, and of those of the prior.

    p: that patients like the prior's surprise it so much or more; coverage90: share of the scans within the mixture's
    90 % intervals.
    """

    patients: int
    scans: int
    mean: float
    usual: float
    p: float
    coverage90: float

    @property
    def looks_unlike(self) -> bool:
        """Whether it should be told: p below SIGNIFICANT."""
        return self.p < SIGNIFICANT

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "looks_unlike": self.looks_unlike}

    def warning(self, source: str, size_name: str, companion: str = "") -> str:
        """What is found, what is usual, and what to do. source, size_name, companion: the table and its columns."""
        beside = f" --companion {size_name}={companion}" if companion else ""
        return (
            f"this cohort looks unlike the patients of the prior: {counted(self.scans, 'scan')} of "
            f"{counted(self.patients, 'patient')} "
            f"{'surprises' if self.scans == 1 else 'surprise'} it by {self.mean:.2f} nats a scan, usual is "
            f"{self.usual:.2f} (p {self.p:.1g}; 90 % intervals "
            f"hold {self.coverage90:.0%}). To learn a prior of this cohort: `tumorcast fit-prior {source} "
            f"--size-column {size_name}{beside} --out prior.json`, then the same command with --prior prior.json. How "
            f"well such a prior forecasts patients left out, `tumorcast fit {source} --size-column {size_name} --prior "
            "leave-one-out --held-out rolling` says, in about a minute a patient"
        )


def surprise_of(cohort: Sequence[SizeSeries], prior: SizePrior) -> Surprise | None:
    """How much the cohort's scans surprise the prior.

    None of fewer than FEWEST_PATIENTS with two scans or more, of an older prior and of one learnt from few.
    """
    followed = [series for series in cohort if series.days.size > 1]
    usual = prior.usual_surprise
    if len(followed) < FEWEST_PATIENTS or prior.state_space is None or usual is None:
        return None
    places = np.unique(np.linspace(0, len(followed) - 1, min(len(followed), MOST_PATIENTS)).round().astype(int))
    by_patient = [scan_surprises(History.of(followed[place]), prior.state_space) for place in places.tolist()]
    means = np.array([surprises.mean() for surprises, _ in by_patient])
    held = np.concatenate([inside for _, inside in by_patient])
    mean, sd = float(means.mean()), float(means.std(ddof=1))
    test = stats.ttest_ind_from_stats(
        mean, sd, means.size, usual.mean, usual.sd, usual.patients, equal_var=False, alternative="greater"
    )
    return Surprise(means.size, held.size, mean, usual.mean, float(test.pvalue), float(held.mean()))


def usual_surprise(histories: Sequence[History]) -> UsualSurprise | None:
    """That of patients whom the mixture does not know, folds of them being forecast by what the others teach.

    None of fewer than FEWEST_LEARNT with two scans or more.
    """
    if sum(history.days.size > 1 for history in histories) < FEWEST_LEARNT:
        return None
    means = []
    for fold in range(FOLDS):
        mixture = StateSpaceMixture.fitted([each for n, each in enumerate(histories) if n % FOLDS != fold])
        followed = (history for history in histories[fold::FOLDS] if history.days.size > 1)
        means += [float(scan_surprises(history, mixture)[0].mean()) for history in followed]
    return UsualSurprise(mean=float(np.mean(means)), sd=float(np.std(means, ddof=1)), patients=len(means))


def scan_surprises(history: History, mixture: StateSpaceMixture) -> tuple[Array, npt.NDArray[np.bool_]]:
    """(T - 1,) surprise of each scan but the first, in nats, and whether it lies within its 90 % interval."""
    surprises, inside = [], []
    for scan in range(1, history.days.size):
        ahead = float(history.days[scan] - history.days[scan - 1])
        quantiles = mixture.quantiles(history.first(scan), ahead, DENSITY_LEVELS)
        expected = np.mean([log_density(quantiles, float(y)) for y in quantiles])
        truth = float(history.log_sizes[scan])
        surprises.append(expected - log_density(quantiles, truth))
        low, high = np.interp([0.05, 0.95], DENSITY_LEVELS, quantiles)
        inside.append(bool(low <= truth <= high))
    return np.array(surprises, dtype=np.float64), np.array(inside, dtype=np.bool_)
