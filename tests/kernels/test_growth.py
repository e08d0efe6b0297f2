"""The closed forms against the differential equations that they solve, and their derivatives against differences."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from tumorcast.growth.laws import CHEMO_RATE, KERNEL_LAWS, BoundsPreset, dose_weight, sizes_of, timeline_of
from tumorcast.kernels import growth
from tumorcast.records import ChemotherapyCourse, LawName, RadiotherapyCourse, Treatment

Array = npt.NDArray[np.float64]
Rate = Callable[[float, float], float]  # of log L, of the chemotherapy rate

LAWS = list(LawName)
SATURATING = [LawName.LOGISTIC, LawName.GOMPERTZ]
DAYS = np.array([-40.0, -3.0, 0.0, 5.0, 28.0, 28.5, 60.0, 75.0, 110.0, 200.0, 366.0])

# λ, λ_decay, delay, slope, S, c, K, A0
ROWS = {
    "ordinary": (0.01, 0.03, 60.0, 0.05, 0.1, 0.02, 5.0, 375.0),
    "slow switch": (0.02, 0.01, 150.0, 0.001, 0.2, 0.005, 200.0, 1.0),
    "steep switch": (0.005, 0.05, 40.0, 600.0, 0.001, 0.05, 1.5, 2.0),
    "fast death": (0.1, 5.0, 0.5, 0.3, 0.95, 0.01, 30.0, 10.0),
    "chemotherapy as quick as growth": (0.05, 0.03, 30.0, 0.1, 0.3, 0.0499997, 1.2, 1.0),
}
SHRINKING = (-0.01, 0.02, 20.0, 0.1, 0.9, 0.003, 2.0, 1.0)  # only the exponential law can shrink by itself

COURSE = RadiotherapyCourse(28.0, 70.0)
DOSED = (RadiotherapyCourse(70.0, 91.0, dose_gy=40.0, fractions=15), RadiotherapyCourse(190.0, 200.0, dose_gy=20.0))
SPANS = (ChemotherapyCourse(10.0, 40.0), ChemotherapyCourse(90.0, 180.0))
TREATMENTS = {
    "none": Treatment(),
    "one course": Treatment((COURSE,)),
    "three courses": Treatment((COURSE, RadiotherapyCourse(70.0, 91.0), RadiotherapyCourse(190.0, 200.0))),
    "doses": Treatment((COURSE, *DOSED)),
    "course before the first scan": Treatment((RadiotherapyCourse(-60.0, -18.0), COURSE)),
    "chemotherapy": Treatment(chemotherapy=SPANS),
    "chemotherapy that goes on": Treatment(chemotherapy=(SPANS[0], ChemotherapyCourse(50.0, math.inf))),
    "chemotherapy from before": Treatment(chemotherapy=(ChemotherapyCourse(-50.0, 20.0),)),
    "resections": Treatment(resection_days=(5.0, 130.0)),
    "all": Treatment((COURSE, *DOSED), (*SPANS, ChemotherapyCourse(250.0, math.inf)), (5.0, 130.0)),
}
RESIDUALS = (0.05, 0.4)


def full_row(row: tuple[float, ...], treatment: Treatment) -> Array:
    return np.array([*row, *RESIDUALS[: len(treatment.resection_days)]])


def sizes(law: LawName, row: Array, treatment: Treatment, days: Array = DAYS, origin: float = 0.0) -> Array:
    return sizes_of(law, timeline_of(treatment, origin, days), np.atleast_2d(row))[0]


def log_growth(
    law: LawName, row: Array, treatment: Treatment, days: Array = DAYS, origin: float = 0.0
) -> tuple[Array, Array]:
    """(T,) log(size / A0) and (T, P) its derivatives."""
    timeline = timeline_of(treatment, origin, days)
    out, jacobian = np.empty(days.size), np.empty((days.size, row.size))
    growth.fill_derivatives(KERNEL_LAWS[law], timeline, row, out, jacobian)
    return out, jacobian


def growth_rate(law: LawName, row: Array) -> Rate:
    """d ln L / dt, as the module of the kernels writes it."""
    rate, capacity = row[growth.RATE], row[growth.CAPACITY]
    match law:
        case LawName.EXPONENTIAL:
            return lambda _, chemo: rate - chemo
        case LawName.LOGISTIC:
            return lambda log_living, chemo: rate * (1.0 - math.exp(log_living) / capacity) - chemo
        case LawName.GOMPERTZ:
            return lambda log_living, chemo: rate * (1.0 - log_living / math.log(capacity)) - chemo


@dataclass
class Cells:
    """The populations of the equations, their logarithms integrated from event to event by solve_ivp."""

    law: LawName
    row: Array
    treatment: Treatment
    living: float = 0.0
    killed: list[tuple[float, float]] = field(default_factory=list)  # day of the course, log D

    def advance(self, left: float, right: float) -> None:
        """Nothing happens between the two days, and tanh does not bend."""
        rate = growth_rate(self.law, self.row)
        middle = 0.5 * (left + right)
        chemo = self.row[growth.CHEMO_RATE] * any(
            course.start_days < middle < course.end_days for course in self.treatment.chemotherapy
        )
        decay, delay, slope = self.row[growth.DECAY_RATE : growth.SLOPE + 1]
        courses = [day for day, _ in self.killed]

        def derivative(t: float, y: Array) -> list[float]:
            return [rate(y[0], chemo), *(-decay * math.tanh(slope * (t - day - delay)) for day in courses)]

        values = [self.living, *(value for _, value in self.killed)]
        found = solve_ivp(derivative, (left, right), values, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
        self.living, self.killed = found[0], list(zip(courses, found[1:], strict=True))

    def treat(self, day: float) -> None:
        for course in self.treatment.radiotherapy:
            if course.start_days == day:
                survival = self.row[growth.SURVIVAL] ** dose_weight(course)
                self.killed.append((day, self.living + math.log(1.0 - survival)))
                self.living += math.log(survival)
        for place, resection in enumerate(self.treatment.resection_days):
            if resection == day:
                left = math.log(self.row[growth.PARAMETERS + place])
                self.living += left
                self.killed = [(began, value + left) for began, value in self.killed]

    @property
    def log_total(self) -> float:
        return float(np.logaddexp.reduce([self.living, *(value for _, value in self.killed)]))


def integrated(law: LawName, row: Array, treatment: Treatment, origin: float = 0.0) -> Array:
    """Sizes on DAYS from the equations, restarted at every event and wherever tanh bends sharply."""
    courses = [course.start_days for course in treatment.radiotherapy]
    spans = [day for course in treatment.chemotherapy for day in (course.start_days, course.end_days)]
    events = [origin, *courses, *spans, *treatment.resection_days]
    clock = min(events)
    seen = {}
    for day in DAYS[clock > DAYS]:
        cells = Cells(law, row, Treatment())
        cells.advance(clock, day)
        seen[day] = cells.log_total
    width = 1.0 / row[growth.SLOPE]
    bends = [day + row[growth.DELAY] + side * width for day in courses for side in (-20, -4, -1, 0, 1, 4, 20)]
    knots = sorted({day for day in (*events, *bends, *DAYS) if clock <= day <= DAYS[-1]})
    cells = Cells(law, row, treatment)
    for left, right in pairwise([clock, *knots]):
        if left < right:
            cells.advance(left, right)
        seen[right] = cells.log_total
        cells.treat(right)
    return row[growth.INITIAL_SIZE] * np.exp([seen[day] - seen[origin] for day in DAYS])


@pytest.mark.parametrize("treatment", TREATMENTS.values(), ids=TREATMENTS.keys())
@pytest.mark.parametrize("name", ROWS.keys())
@pytest.mark.parametrize("law", LAWS)
def test_closed_form_solves_the_equations(law: LawName, name: str, treatment: Treatment) -> None:
    row = full_row(ROWS[name], treatment)
    np.testing.assert_allclose(sizes(law, row, treatment), integrated(law, row, treatment), rtol=1e-10)


def test_a_shrinking_tumour_solves_the_equations_too() -> None:
    row, treatment = full_row(SHRINKING, TREATMENTS["all"]), TREATMENTS["all"]
    solved = integrated(LawName.EXPONENTIAL, row, treatment)
    np.testing.assert_allclose(sizes(LawName.EXPONENTIAL, row, treatment), solved, rtol=1e-10)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("origin", [28.0, 60.0, 200.0])
def test_origin_after_treatment_solves_the_equations(law: LawName, origin: float) -> None:
    treatment = TREATMENTS["all"]
    row = full_row(ROWS["ordinary"], treatment)
    found = sizes(law, row, treatment, DAYS, origin)
    np.testing.assert_allclose(found, integrated(law, row, treatment, origin), rtol=1e-10)
    assert found[origin == DAYS] == pytest.approx(row[growth.INITIAL_SIZE], rel=1e-14)


def central_differences(law: LawName, row: Array, treatment: Treatment, origin: float, j: int) -> Array:
    """(T,) of the fourth order, by the logarithm of a column."""

    def at(step: float) -> Array:
        moved = row.copy()
        moved[j] *= 1.0 + step
        return log_growth(law, moved, treatment, DAYS, origin)[0]

    step = 2e-4
    return (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step)


@pytest.mark.parametrize("origin", [0.0, 100.0])
@pytest.mark.parametrize("treatment", TREATMENTS.values(), ids=TREATMENTS.keys())
@pytest.mark.parametrize("name", ["ordinary", "slow switch", "fast death", "chemotherapy as quick as growth"])
@pytest.mark.parametrize("law", LAWS)
def test_jacobian_against_central_differences(law: LawName, name: str, treatment: Treatment, origin: float) -> None:
    row = full_row(ROWS[name], treatment)
    values, jacobian = log_growth(law, row, treatment, DAYS, origin)
    rounding = 1e-9 * (1.0 + np.abs(values))
    for j in range(row.size):
        if j == growth.INITIAL_SIZE:
            assert not np.any(jacobian[:, j])  # it is A0's own factor that is solved for
        else:
            expected = central_differences(law, row, treatment, origin, j)
            error = np.abs(jacobian[:, j] * row[j] - expected)
            assert np.all(error <= 1e-6 * np.abs(expected) + rounding), j


# What must hold for every row and treatment.


def rows_within(law: LawName, preset: BoundsPreset) -> st.SearchStrategy[Array]:
    """Rows with two resections, walls included."""
    columns = preset.of(law).columns(2)
    bounds = [CHEMO_RATE if j == growth.CHEMO_RATE else bound for j, bound in enumerate(columns)]
    return st.tuples(*(st.floats(bound.lower, bound.upper) for bound in bounds)).map(np.array)


def any_day(lower: float = -100.0, upper: float = 400.0) -> st.SearchStrategy[float]:
    return st.floats(lower, upper).map(lambda day: round(day, 3))


def spans_of_days() -> st.SearchStrategy[list[tuple[float, float]]]:
    span = st.tuples(any_day(), any_day(0.0)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    return st.lists(span | any_day().map(lambda day: (day, math.inf)), max_size=2)


def treatment_of(courses: list[float], spans: list[tuple[float, float]], cuts: tuple[float, float]) -> Treatment:
    return Treatment(
        tuple(RadiotherapyCourse(day, day + 42.0) for day in sorted(courses)),
        tuple(ChemotherapyCourse(start, end) for start, end in sorted(spans)),
        tuple(sorted(cuts)),
    )


treatments = st.builds(treatment_of, st.lists(any_day(), max_size=3), spans_of_days(), st.tuples(any_day(), any_day()))
laws = st.sampled_from(LAWS)
any_case = laws.flatmap(lambda law: st.tuples(st.just(law), rows_within(law, BoundsPreset.DEFAULT), treatments))
quickly = settings(deadline=None, max_examples=60)  # the first call may compile


@pytest.mark.parametrize("preset", list(BoundsPreset))
@pytest.mark.parametrize("law", LAWS)
@quickly
@given(data=st.data(), treatment=treatments, origin=any_day())
def test_every_row_within_bounds_is_finite(
    law: LawName, preset: BoundsPreset, data: st.DataObject, treatment: Treatment, origin: float
) -> None:
    row = data.draw(rows_within(law, preset))
    days = np.array([-2000.0, -100.0, origin, *DAYS, 2000.0])
    found = sizes(law, row, treatment, days, origin)
    assert np.all(np.isfinite(found)) and np.all(found >= 0)
    np.testing.assert_allclose(found[2], row[growth.INITIAL_SIZE], rtol=1e-9)
    assert np.all(np.isfinite(log_growth(law, row, treatment, days, origin)[1]))


def starts_of(treatment: Treatment) -> list[float]:
    """The days on which the clock could start, but for the origin's."""
    return [
        *(course.start_days for course in treatment.radiotherapy),
        *(course.start_days for course in treatment.chemotherapy),
        *treatment.resection_days,
    ]


@quickly
@given(any_case)
def test_full_survival_is_no_treatment(case: tuple[LawName, Array, Treatment]) -> None:
    law, row, treatment = case
    row[growth.SURVIVAL] = 1.0
    bare = Treatment((), treatment.chemotherapy, treatment.resection_days)
    origin = min([0.0, *starts_of(treatment)])  # else a course without effect could start the clock
    np.testing.assert_allclose(sizes(law, row, treatment, DAYS, origin), sizes(law, row, bare, DAYS, origin), rtol=1e-9)


@quickly
@given(laws, st.floats(1e-4, 0.2), st.floats(0.0, 365.0))
def test_without_a_limit_every_law_is_exponential(law: LawName, rate: float, day: float) -> None:
    row = np.array([rate, 0.05, 30.0, 0.1, 0.5, 0.0, 1e300, 1.0])
    lag = rate * day - np.log(sizes(law, row, Treatment(), np.array([day]))[0])
    # ln L falls behind λt by (λt)² / (2 ln K) at most with Gompertz, by e^(λt) / K with the logistic law
    at_most = (rate * day) ** 2 / (2.0 * math.log(1e300)) if law is LawName.GOMPERTZ else 0.0
    assert -1e-12 <= lag <= at_most + 1e-12


@pytest.mark.parametrize("preset", list(BoundsPreset))
@pytest.mark.parametrize("law", SATURATING)
@quickly
@given(data=st.data())
def test_capacity_is_approached_from_below_and_never_passed(
    law: LawName, preset: BoundsPreset, data: st.DataObject
) -> None:
    row = data.draw(rows_within(law, preset))[: growth.PARAMETERS]
    days = np.arange(0.0, 3000.0, 50.0)
    alone = sizes(law, row, Treatment(), days) / row[growth.INITIAL_SIZE]
    assert np.all(np.diff(alone) >= -1e-12 * alone[1:])
    assert np.all(alone <= row[growth.CAPACITY] * (1.0 + 1e-12))
    asked_once = sizes(law, row, Treatment(), days[-1:]) / row[growth.INITIAL_SIZE]
    assert asked_once[0] == pytest.approx(alone[-1], rel=1e-10)


@pytest.mark.parametrize("law", SATURATING)
@pytest.mark.parametrize("day", [100.0, 1000.0, 100_000.0])
def test_capacity_is_reached(law: LawName, day: float) -> None:
    row = np.array([2.0, 0.05, 30.0, 0.1, 0.5, 0.5, 3.0, 7.0])
    assert sizes(law, row, Treatment(), np.array([day]))[0] == pytest.approx(21.0, rel=1e-12)
    medicated = Treatment(chemotherapy=(ChemotherapyCourse(0.0, math.inf),))
    level = 3.0 * (1.0 - 0.5 / 2.0) if law is LawName.LOGISTIC else 3.0 ** (1.0 - 0.5 / 2.0)  # where g(L) = c
    assert sizes(law, row, medicated, np.array([day]))[0] == pytest.approx(7.0 * level, rel=1e-12)


@quickly
@given(any_case)
def test_a_resection_leaves_its_share(case: tuple[LawName, Array, Treatment]) -> None:
    law, row, treatment = case
    starts = starts_of(treatment)
    assume(len(set(starts)) == len(starts))  # nothing else happens on the day
    for place, day in enumerate(treatment.resection_days):
        before, after = sizes(law, row, treatment, np.array([day, np.nextafter(day, np.inf)]), 500.0)
        assert after == pytest.approx(row[growth.PARAMETERS + place] * before, rel=1e-9)


@quickly
@given(any_case, st.floats(1e-3, 1e6))
def test_the_unit_of_size_only_scales(case: tuple[LawName, Array, Treatment], unit: float) -> None:
    law, row, treatment = case
    scaled = row.copy()
    scaled[growth.INITIAL_SIZE] *= unit
    np.testing.assert_allclose(sizes(law, scaled, treatment), unit * sizes(law, row, treatment), rtol=1e-14)


@quickly
@given(any_case, st.integers(-4000, 4000))
def test_shifting_all_days_changes_nothing(case: tuple[LawName, Array, Treatment], by: int) -> None:
    law, row, treatment = case
    moved = Treatment(
        tuple(RadiotherapyCourse(course.start_days + by, course.end_days + by) for course in treatment.radiotherapy),
        tuple(ChemotherapyCourse(course.start_days + by, course.end_days + by) for course in treatment.chemotherapy),
        tuple(day + by for day in treatment.resection_days),
    )
    there, here = log_growth(law, row, moved, DAYS + by, float(by))[0], log_growth(law, row, treatment)[0]
    np.testing.assert_allclose(there, here, rtol=1e-8, atol=1e-8)


@quickly
@given(any_case, any_day(), st.floats(0.0, 1.0), st.floats(0.0, 300.0))
def test_splitting_chemotherapy_in_two_changes_nothing(
    case: tuple[LawName, Array, Treatment], start: float, share: float, length: float
) -> None:
    law, row, treatment = case
    middle, end = start + share * length, start + length
    parts = (ChemotherapyCourse(start, middle), ChemotherapyCourse(middle, end))
    whole = Treatment(treatment.radiotherapy, (ChemotherapyCourse(start, end),), treatment.resection_days)
    split = Treatment(treatment.radiotherapy, parts, treatment.resection_days)
    assert sizes(law, row, split).tolist() == sizes(law, row, whole).tolist()


@quickly
@given(any_case, any_day(0.0, 350.0))
def test_asking_for_one_more_day_changes_nothing(case: tuple[LawName, Array, Treatment], day: float) -> None:
    law, row, treatment = case
    more = log_growth(law, row, treatment, np.append(DAYS, day))[0]
    np.testing.assert_allclose(more[:-1], log_growth(law, row, treatment)[0], rtol=1e-9, atol=1e-9)


@quickly
@given(any_case)
def test_one_day_many_days_and_a_batch_agree(case: tuple[LawName, Array, Treatment]) -> None:
    law, row, treatment = case
    batch = sizes_of(law, timeline_of(treatment, 0.0, DAYS), np.array([row, row]))
    assert batch[0].tolist() == batch[1].tolist() == sizes(law, row, treatment).tolist()
    single = [sizes(law, row, treatment, np.array([day]))[0] for day in DAYS]
    np.testing.assert_allclose(single, batch[0], rtol=1e-9)
    backwards = sizes(law, row, treatment, DAYS[::-1].copy())
    assert backwards[::-1].tolist() == batch[0].tolist()


@given(st.floats(-700.0, 700.0))
def test_log_cosh_and_its_slope(x: float) -> None:
    value, slope = growth.log_cosh_and_slope(x)
    half = math.expm1(-2.0 * abs(x)) / 2.0  # cosh x = e^|x| (1 + half)
    exact = x * x / 2.0 - x**4 / 12.0 if abs(x) < 1e-3 else abs(x) + math.log1p(half)
    assert abs(value - exact) <= 1e-15 * abs(x) + 1e-18
    assert abs(slope - math.tanh(x)) <= 1e-15


def test_log_cosh_of_what_cosh_cannot_hold() -> None:
    assert growth.log_cosh_and_slope(1e6) == (1e6 - math.log(2.0), 1.0)
    assert growth.log_cosh_and_slope(-1e6) == (1e6 - math.log(2.0), -1.0)
    assert growth.log_cosh_and_slope(0.0) == (0.0, 0.0)
