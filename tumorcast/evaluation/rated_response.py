"""Forecasts of RANO progression and response judged on scans that experts rated: calibration, Brier score, AUC.

Rolling: every scan that an expert rated CR, PR, SD or PD and that has two earlier ones is forecast from those, and the
probability is that of its day (growth/response.py); and from every scan but the first, that of progression by a date.
Each stands beside the rate of the event among the other folds' patients, who are dealt to folds in the table's order.
Brier scores are means over scans, and patients are drawn with all their scans for the intervals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.evaluation.statistics import Estimate, estimate
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.population.autoregression import Persistence
from tumorcast.growth.population.history import History
from tumorcast.growth.population.pool import Pool
from tumorcast.growth.population.state_space import StateSpaceMixture
from tumorcast.growth.prior import SizePrior
from tumorcast.growth.response import PATHS, Reference, first_passage, outlook_of
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, SizeSeries
from tumorcast.tables import read_table

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

FOLDS, BINS, FEWEST_EARLIER = 5, 5, 2
WINDOW_DAYS = 180.0  # in which progression is to be foreseen


class Rating(StrEnum):
    """What an expert calls a scan: complete response, partial response, stable disease, progressive disease."""

    COMPLETE = "CR"
    PARTIAL = "PR"
    STABLE = "SD"
    PROGRESSIVE = "PD"


class Event(StrEnum):
    """What is forecast of a scan."""

    PROGRESSION = "progression"
    RESPONSE = "response"

    def is_rated(self, rating: Rating) -> bool:
        """Whether the expert saw it."""
        wanted = {Event.PROGRESSION: {Rating.PROGRESSIVE}, Event.RESPONSE: {Rating.COMPLETE, Rating.PARTIAL}}
        return rating in wanted[self]


@dataclass(frozen=True)
class RatedScan:
    """A scan to forecast: the index of its patient and of itself in the patient's series, and what the expert said."""

    patient: int
    scan: int
    rating: Rating


def read_ratings(path: Path, column: str = "rano") -> dict[tuple[str, float], Rating]:
    """By patient and day the expert's rating, of rows that have one of the four; other words are no rating.

    path: a CSV table with patient_id, day and the column. Raises InputError if it is none, or a column is missing.
    """
    known = {str(rating): rating for rating in Rating}
    rows = read_table(path, ["patient_id", "day", column], [], remedy="name the column of ratings that is there")
    found = {}
    for row in rows:
        day = row.day("day")
        if day is not None and row.text(column) in known:
            found[(row.identifier("patient_id"), day)] = known[row.text(column)]
    return found


def rated_scans(cohort: Sequence[SizeSeries], ratings: Mapping[tuple[str, float], Rating]) -> list[RatedScan]:
    """Every rated scan that has two earlier ones, in the order of patients and days."""
    return [
        RatedScan(patient, scan, ratings[(series.patient_id, float(series.days[scan]))])
        for patient, series in enumerate(cohort)
        for scan in range(FEWEST_EARLIER, series.days.size)
        if (series.patient_id, float(series.days[scan])) in ratings
    ]


def fold_of(patient: int) -> int:
    """The fold of a patient, by the place in the table.

    >>> [fold_of(patient) for patient in (0, 4, 5)]
    [0, 4, 0]
    """
    return patient % FOLDS


@dataclass(frozen=True)
class Chances:
    """(C,) probabilities of each event, forecast for each rated scan; and what the size measured there says, 0 or 1.

    had_progressed: (C,) whether the last scan known shows progression already, by its size.
    """

    forecast: Mapping[Event, Floats]
    measured: Mapping[Event, Floats]
    had_progressed: Booleans


def forecast_chances(
    cohort: Sequence[SizeSeries], scans: Sequence[RatedScan], model_of: Callable[[int], GrowthModel]
) -> Chances:
    """For every scan, from the scans before it, by the model of its patient; which must not know the patient."""
    forecast: dict[Event, list[float]] = {event: [] for event in Event}
    measured: dict[Event, list[float]] = {event: [] for event in Event}
    had_progressed = []
    for each in scans:
        series, model = cohort[each.patient], model_of(each.patient)
        found = model.forecast(series.part(0, each.scan))
        reference, day = Reference.of(found.fit.told), series.days[each.scan : each.scan + 1]
        paths = found.paths(day, PATHS, model.settings.seed)
        outlook = outlook_of(paths, day - found.fit.series.days[-1], reference)
        forecast[Event.PROGRESSION].append(outlook.progression_at)
        forecast[Event.RESPONSE].append(outlook.response)
        size = series.sizes[each.scan : each.scan + 1]
        measured[Event.PROGRESSION].append(float(reference.progressed(size)[0]))
        measured[Event.RESPONSE].append(float(reference.responded(size)[0]))
        had_progressed.append(bool(reference.progressed(series.sizes[each.scan - 1 : each.scan])[0]))
    by_event = [{event: np.array(part[event]) for event in Event} for part in (forecast, measured)]
    return Chances(by_event[0], by_event[1], np.array(had_progressed))


def progression_within(
    cohort: Sequence[SizeSeries],
    ratings: Mapping[tuple[str, float], Rating],
    model_of: Callable[[int], GrowthModel],
    days: float = WINDOW_DAYS,
) -> tuple[list[RatedScan], Floats, Floats]:
    """Progression by a date: what is forecast from every scan but the first, on the scans of the `days` after it.

    Returns (L) the last scans known, with PD where an expert rated a scan in the window so, SD elsewhere; and of each
    (L,) the probability that a scan in the window shows progression over the least size before it, and 1 where one did.
    Those count whose last scan shows no progression by its size, and that have a rated scan in the window.
    """
    known: list[RatedScan] = []
    chances, seen = [], []
    for patient, series in enumerate(cohort):
        for last in range(FEWEST_EARLIER - 1, series.days.size - 1):
            ahead = series.days - series.days[last]
            later = (ahead > 0) & (ahead <= days)
            said = {ratings.get((series.patient_id, float(day))) for day in series.days[later]} - {None}
            reference = Reference.of(series.part(0, last + 1))
            if not said or reference.progressed(series.sizes[last : last + 1])[0]:
                continue
            model = model_of(patient)
            found = model.forecast(series.part(0, last + 1))
            reference = Reference.of(found.fit.told)
            paths = found.paths(series.days[later], PATHS, model.settings.seed)
            times = (first_passage(sizes, ahead[later], reference) for sizes in (paths, series.sizes[None, later]))
            forecast, observed = (float(np.mean(np.isfinite(found))) for found in times)
            chances.append(forecast)
            seen.append(observed)
            known.append(RatedScan(patient, last, Rating.PROGRESSIVE if Rating.PROGRESSIVE in said else Rating.STABLE))
    return known, np.array(chances), np.array(seen)


def fold_priors(cohort: Sequence[SizeSeries], prior: SizePrior) -> list[SizePrior]:
    """For each fold, what the other folds' patients tell: pool, mixture and persistence; growth laws from `prior`."""
    priors = []
    for fold in range(FOLDS):
        others = [History.of(series) for patient, series in enumerate(cohort) if fold_of(patient) != fold]
        learnt = {
            "pool": Pool.fitted(others),
            "state_space": StateSpaceMixture.fitted(others),
            "persistence": Persistence.fitted(others),
        }
        counts = {"patients": len(others), "scans": sum(history.days.size for history in others)}
        priors.append(prior.model_copy(update=learnt | counts))
    return priors


def fold_models(cohort: Sequence[SizeSeries], prior: SizePrior) -> Callable[[int], GrowthModel]:
    """The model of each patient, learnt from the other folds."""
    priors = fold_priors(cohort, prior)

    def model_of(patient: int) -> GrowthModel:
        return GrowthModel(FitSettings(), Forecaster.COMBINED, lambda series: priors[fold_of(patient)])

    return model_of


def base_rates(scans: Sequence[RatedScan], seen: Floats) -> Floats:
    """(C,) for each scan, the mean of seen: (C,) among the scans of the other folds' patients."""
    folds = np.array([fold_of(each.patient) for each in scans])
    return np.array([np.mean(seen[folds != fold]) for fold in folds])


def seen_by_experts(scans: Sequence[RatedScan], event: Event) -> Floats:
    """(C,) 1 where the expert saw the event, 0 elsewhere."""
    return np.array([float(event.is_rated(each.rating)) for each in scans])


def mean_over_scans(values: Floats, patients: Sequence[int]) -> Estimate:
    """The mean of values: (C,), one a scan; patients: (C,), drawn with all their scans for the interval.

    >>> mean_over_scans(np.array([1.0, 0.0, 0.5]), [0, 0, 1]).value
    0.5
    """
    _, index = np.unique(np.asarray(patients), return_inverse=True)
    table = np.stack([np.bincount(index, values), np.bincount(index)], axis=1)

    def mean(rows: Floats, axis: int) -> Floats:
        sums = rows.sum(axis=axis)
        return np.asarray(sums[..., 0] / sums[..., 1])

    return estimate(table, mean)


def auc_over_scans(chances: Floats, seen: Floats, patients: Sequence[int]) -> Estimate:
    """The area under the ROC curve of chances: (C,) for seen: (C,), 0 or 1; patients: (C,), drawn with all their scans.

    Equal chances count half. NaN where all was seen or nothing.

    >>> auc_over_scans(np.array([0.9, 0.2, 0.5, 0.5]), np.array([1.0, 0.0, 1.0, 0.0]), [0, 0, 1, 1]).value
    0.875
    """
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    is_seen, everyone = seen > 0, np.arange(names.size)
    high, low = chances[is_seen][:, None], chances[~is_seen][None, :]
    places = np.ix_(index[is_seen], index[~is_seen])
    won, pairs = np.zeros((2, names.size, names.size))
    np.add.at(won, places, (high > low) + 0.5 * (high == low))
    np.add.at(pairs, places, 1.0)

    def auc(rows: npt.NDArray[np.int64], axis: int) -> Floats:
        counts = (rows[..., None] == everyone).sum(axis=axis).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.sum(counts @ won * counts, axis=-1) / np.sum(counts @ pairs * counts, axis=-1))

    return estimate(everyone, auc)


def reliability(chances: Floats, seen: Floats) -> list[dict[str, Any]]:
    """Of five equal bins of the probability: how many scans, the mean probability, and the share that came true.

    >>> reliability(np.array([0.1, 0.15, 1.0]), np.array([0.0, 1.0, 1.0]))[-1]
    {'from': 0.8, 'to': 1.0, 'scans': 1, 'forecast': 1.0, 'observed': 1.0}
    """
    places = np.minimum((chances * BINS).astype(np.int64), BINS - 1)
    table: list[dict[str, Any]] = []
    for place in range(BINS):
        inside = places == place
        row: dict[str, Any] = {"from": place / BINS, "to": (place + 1) / BINS, "scans": int(inside.sum())}
        means = [round(float(part[inside].mean()), 3) if inside.any() else None for part in (chances, seen)]
        table.append(row | dict(zip(("forecast", "observed"), means, strict=True)))
    return table


def verdict(difference: Estimate) -> str:
    """In words, what the difference of Brier scores, forecast less base rate, says.

    >>> verdict(Estimate(-0.01, -0.05, 0.03, 30))
    'not shown to be better than the base rate'
    """
    if difference.high < 0:
        return "better than the base rate"
    return "worse than the base rate" if difference.low > 0 else "not shown to be better than the base rate"


def judged(chances: Floats, seen: Floats, scans: Sequence[RatedScan]) -> dict[str, Any]:
    """The scores of chances: (C,) of what was seen: (C,), 0 or 1, beside the base rate.

    A Brier difference below zero is in the forecast's favour. AUC: chance that a scan with the event was given more
    than one without.
    """
    base, patients = base_rates(scans, seen), [each.patient for each in scans]
    ours, theirs = (chances - seen) ** 2, (base - seen) ** 2
    difference, auc = mean_over_scans(ours - theirs, patients), auc_over_scans(chances, seen, patients)
    return {
        "scans": len(scans),
        "brier": round(float(ours.mean()), 4),
        "brier_base_rate": round(float(theirs.mean()), 4),
        "brier_difference": _rounded(difference, 4),
        "verdict": verdict(difference),
        "auc": _rounded(auc, 3),
        "mean_forecast": round(float(chances.mean()), 3),
        "observed": round(float(seen.mean()), 3),
        "reliability": reliability(chances, seen),
    }


def _not_measurable(cohort: Sequence[SizeSeries], scans: Sequence[RatedScan]) -> dict[str, int]:
    """By rating, how many scans are of patients from whose baseline the rule has no response."""
    found = [each for each in scans if not Reference.of(cohort[each.patient].part(0, each.scan)).is_measurable]
    return {str(rating): sum(each.rating is rating for each in found) for rating in Rating}


def _rounded(found: Estimate, digits: int) -> list[float | None]:
    """Value, low and high; None where there is none, as JSON has no NaN."""
    return [None if np.isnan(each) else round(each, digits) for each in (found.value, found.low, found.high)]


def report(
    cohort: Sequence[SizeSeries], ratings: Mapping[tuple[str, float], Rating], models: Mapping[str, Any]
) -> dict[str, Any]:
    """For each model, by name a function from a patient's place to a GrowthModel, and each event, what `judged` says.

    of_rating: of what the expert says of the scan; of_size: of what the size measured there says by the same rule,
    which is what the forecast tells of; new_progression: that, of patients whose last scan known shows no progression,
    since one that has progressed mostly stays so. size_rule: of the rating by that measured size, as if it were known:
    what the size alone can tell of the rating. baseline_not_measurable: scans by rating. within: progression by a date
    (`progression_within`).
    """
    scans = rated_scans(cohort, ratings)
    figures: dict[str, Any] = {"scans": len(scans), "patients": len({each.patient for each in scans})}
    figures["baseline_not_measurable"] = _not_measurable(cohort, scans)
    rated = {event: seen_by_experts(scans, event) for event in Event}
    for name, model_of in models.items():
        found = forecast_chances(cohort, scans, model_of)
        figures[name] = {
            str(event): {
                "of_rating": judged(found.forecast[event], rated[event], scans),
                "of_size": judged(found.forecast[event], found.measured[event], scans),
            }
            for event in Event
        }
        is_new = np.flatnonzero(~found.had_progressed)
        chances, seen = (part[Event.PROGRESSION][is_new] for part in (found.forecast, found.measured))
        figures[name]["new_progression"] = judged(chances, seen, [scans[int(place)] for place in is_new])
        known, by_date, seen = progression_within(cohort, ratings, model_of)
        experts = seen_by_experts(known, Event.PROGRESSION)
        figures[name]["within"] = {
            "days": WINDOW_DAYS,
            "of_rating": judged(by_date, experts, known),
            "of_size": judged(by_date, seen, known),
        }
        figures["size_rule"] = {str(event): judged(found.measured[event], rated[event], scans) for event in Event}
    return figures
