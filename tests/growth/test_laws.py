import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorcast.growth.laws import (
    COLUMN_NAMES,
    DEFAULT_BOUNDS,
    KERNEL_LAWS,
    PAPER_BOUNDS,
    SATURATING_CAPACITY,
    SATURATING_RATE,
    Bound,
    BoundsPreset,
    Exponential,
    Gompertz,
    GrowthLaw,
    Logistic,
    Response,
    dose_weight,
    name_of,
    parameter_names,
    row_of,
    size_after,
    sizes_of,
    timeline_of,
)
from tumorcast.kernels import growth as kernels
from tumorcast.records import ChemotherapyCourse, LawName, RadiotherapyCourse, Treatment

RESPONSE = Response(decay_rate_per_day=0.02, delay_days=40.0, slope_per_day=0.3, survival=0.1, chemo_rate_per_day=0.004)
EACH_LAW: dict[LawName, GrowthLaw] = {
    LawName.EXPONENTIAL: Exponential(0.01, RESPONSE),
    LawName.LOGISTIC: Logistic(0.01, 5.0, RESPONSE),
    LawName.GOMPERTZ: Gompertz(0.01, 5.0, RESPONSE),
}
DAYS = np.array([0.0, 30.0, 90.0, 300.0])
INF = math.inf


# The rows of the kernels.


@pytest.mark.parametrize("name", LawName)
def test_every_law_has_its_name_and_its_kernel(name: LawName) -> None:
    assert name_of(EACH_LAW[name]) is name
    assert sorted(KERNEL_LAWS.values()) == [kernels.EXPONENTIAL, kernels.LOGISTIC, kernels.GOMPERTZ]
    assert KERNEL_LAWS[name] == getattr(kernels, name.upper())


def test_names_are_in_the_order_of_the_kernels_columns() -> None:
    places = {
        "rate_per_day": kernels.RATE,
        "decay_rate_per_day": kernels.DECAY_RATE,
        "delay_days": kernels.DELAY,
        "slope_per_day": kernels.SLOPE,
        "survival": kernels.SURVIVAL,
        "chemo_rate_per_day": kernels.CHEMO_RATE,
        "capacity_ratio": kernels.CAPACITY,
        "initial_size": kernels.INITIAL_SIZE,
    }
    assert {name: COLUMN_NAMES.index(name) for name in COLUMN_NAMES} == places
    assert parameter_names(2) == (*COLUMN_NAMES, "residual_1", "residual_2")


@pytest.mark.parametrize("bounds", [DEFAULT_BOUNDS, PAPER_BOUNDS])
def test_bounds_are_in_the_order_of_the_names(bounds) -> None:  # type: ignore[no-untyped-def]
    columns = bounds.columns(resections=2)
    assert columns[: kernels.PARAMETERS] == tuple(getattr(bounds, name) for name in COLUMN_NAMES)
    assert columns[kernels.PARAMETERS :] == (bounds.residual, bounds.residual)


@pytest.mark.parametrize("name", LawName)
def test_a_row_holds_the_law(name: LawName) -> None:
    law = EACH_LAW[name]
    measured = dict(zip(parameter_names(2), row_of(law, 7.0, (0.2, 0.6)), strict=True))
    for response in ("decay_rate_per_day", "delay_days", "slope_per_day", "survival", "chemo_rate_per_day"):
        assert measured[response] == getattr(RESPONSE, response)
    assert (measured["rate_per_day"], measured["initial_size"]) == (0.01, 7.0)
    assert (measured["residual_1"], measured["residual_2"]) == (0.2, 0.6)
    assert measured["capacity_ratio"] == getattr(law, "capacity_ratio", measured["capacity_ratio"])


# Bounds.


def test_paper_bounds_are_the_papers() -> None:
    measured = PAPER_BOUNDS.columns(0)
    fitted = [measured[j] for j in (*range(kernels.SURVIVAL + 1), kernels.INITIAL_SIZE)]
    assert [bound.lower for bound in fitted] == [0.001, 0.001, 0.001, 0.001, 0.001, 0.9]
    assert [bound.upper for bound in fitted] == [2.0, 100.0, 300.0, 600.0, 0.2, 1.1]
    assert measured[kernels.CHEMO_RATE] == (0.0, 0.0)  # the paper has none
    assert BoundsPreset("paper").of(LawName.EXPONENTIAL) is PAPER_BOUNDS


@pytest.mark.parametrize("preset", BoundsPreset)
@pytest.mark.parametrize("law", [LawName.LOGISTIC, LawName.GOMPERTZ])
def test_a_saturating_law_has_a_positive_rate_and_a_capacity_above_its_first_size(
    preset: BoundsPreset, law: LawName
) -> None:
    bounds, exponential = preset.of(law), preset.of(LawName.EXPONENTIAL)
    assert bounds.rate_per_day.lower >= SATURATING_RATE.lower > 0
    assert bounds.rate_per_day.upper == exponential.rate_per_day.upper
    assert bounds.capacity_ratio == SATURATING_CAPACITY and SATURATING_CAPACITY.lower > 1
    assert exponential.capacity_ratio.lower == exponential.capacity_ratio.upper  # it has none to be fitted
    assert bounds.survival == exponential.survival


def test_the_middle_is_geometric_where_all_is_positive() -> None:
    assert Bound(1.0, 100.0).middle == pytest.approx(10.0)
    assert Bound(-1.0, 3.0).middle == 1.0
    assert Bound(0.0, 3.0).middle == 1.5
    assert Bound(-1.0, 3.0).fixed == Bound(1.0, 1.0)


# Doses.


@pytest.mark.parametrize(
    ("dose", "fractions", "weight"),
    [
        (60.0, 30, 1.0),
        (40.0, 15, 0.7037),  # 40 (1 + 2.667 / 10) / 72
        (35.0, 10, 0.65625),  # re-irradiation: 35 (1 + 3.5 / 10) / 72
        (24.0, 1, 1.1333),  # radiosurgery
        (30.0, None, 0.5),  # fractions of 2 Gy where they are not known
        (None, 30, 1.0),
        (None, None, 1.0),
        (0.0, 0, 1.0),  # a dose of zero stands for one that is not known
    ],
)
def test_dose_weight_is_the_effective_dose_over_that_of_the_usual_course(
    dose: float | None, fractions: int | None, weight: float
) -> None:
    assert dose_weight(RadiotherapyCourse(0.0, 42.0, dose, fractions)) == pytest.approx(weight, abs=5e-5)


def test_two_courses_of_the_usual_dose_kill_as_one_of_twice_its_weight() -> None:
    once = Treatment((RadiotherapyCourse(10.0, 10.0, dose_gy=120.0, fractions=60),))
    twice = Treatment((RadiotherapyCourse(10.0, 10.0, 60.0, 30), RadiotherapyCourse(10.0, 10.0, 60.0, 30)))
    sizes = [size_after(EACH_LAW[LawName.GOMPERTZ], DAYS, 1.0, treatment=treatment) for treatment in (once, twice)]
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-13)


def test_doses_count_only_where_they_are_asked_for() -> None:
    treatment = Treatment((RadiotherapyCourse(10.0, 31.0, dose_gy=40.0, fractions=15),))
    weights = [timeline_of(treatment, 0.0, DAYS, doses=doses).values for doses in (True, False)]
    assert weights[0][weights[0] != 1.0].tolist() == [dose_weight(treatment.radiotherapy[0])]
    assert np.all(weights[1] == 1.0)


# Timelines.


def events_of(treatment: Treatment, origin: float = 0.0, days: tuple[float, ...] = ()) -> list[tuple[float, int]]:
    timeline = timeline_of(treatment, origin, np.array(days))
    return list(zip(timeline.days.tolist(), timeline.kinds.tolist(), strict=True))


def test_on_one_day_scans_come_before_treatments() -> None:
    treatment = Treatment(
        (RadiotherapyCourse(5.0, 47.0),), (ChemotherapyCourse(0.0, 5.0), ChemotherapyCourse(5.5, 9.0)), (5.0,)
    )
    on_the_day = [kind for day, kind in events_of(treatment, 5.0, (5.0, 8.0)) if day == 5.0]
    assert on_the_day[:2] == [kernels.SCAN, kernels.ORIGIN]
    assert sorted(on_the_day[2:]) == [kernels.RADIOTHERAPY, kernels.CHEMO_OFF, kernels.RESECTION]


def test_a_scan_on_the_day_of_a_treatment_shows_nothing_of_it() -> None:
    law = Exponential(0.01, Response(survival=0.1, decay_rate_per_day=0.05, delay_days=1.0, slope_per_day=1.0))
    treatment = Treatment((RadiotherapyCourse(30.0, 72.0),), resection_days=(30.0,))
    sizes = size_after(law, np.array([30.0, 30.001]), 1.0, treatment=treatment, residuals=(0.3,))
    assert sizes[0] == pytest.approx(math.exp(0.3), rel=1e-14)
    assert sizes[1] == pytest.approx(0.3 * sizes[0], rel=1e-3)


def test_events_are_put_in_order_and_scans_keep_their_places() -> None:
    courses = (RadiotherapyCourse(200.0, 242.0), RadiotherapyCourse(28.0, 70.0))
    timeline = timeline_of(Treatment(courses, resection_days=(90.0, 15.0)), 3.0, np.array([300.0, 3.0, 50.0]))
    assert np.all(np.diff(timeline.days) >= 0)
    assert timeline.days[timeline.kinds == kernels.RADIOTHERAPY].tolist() == [28.0, 200.0]
    assert timeline.indices[timeline.kinds == kernels.SCAN].tolist() == [1, 2, 0]
    assert timeline.indices[timeline.kinds == kernels.RESECTION].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("treatment", "start"),
    [
        (Treatment(), 10.0),
        (Treatment((RadiotherapyCourse(50.0, 92.0),)), 10.0),
        (Treatment((RadiotherapyCourse(-20.0, 22.0),)), -20.0),
        (Treatment(chemotherapy=(ChemotherapyCourse(-30.0, INF),)), -30.0),
        (Treatment(resection_days=(-40.0,)), -40.0),
    ],
)
def test_the_clock_starts_with_the_origin_or_a_treatment_before(treatment: Treatment, start: float) -> None:
    assert timeline_of(treatment, 10.0, np.array([-100.0, 10.0])).start == start  # a scan never starts it


ON, OFF = kernels.CHEMO_ON, kernels.CHEMO_OFF


@pytest.mark.parametrize(
    ("spans", "switches"),
    [
        ([(0, 10), (20, 30)], [(0, ON), (10, OFF), (20, ON), (30, OFF)]),
        ([(0, 10), (10, 30)], [(0, ON), (30, OFF)]),
        ([(5, 30), (0, 10)], [(0, ON), (30, OFF)]),
        ([(0, 30), (5, 10)], [(0, ON), (30, OFF)]),
        ([(0, INF), (5, 10)], [(0, ON)]),
        ([(0, 10), (5, INF), (40, 50)], [(0, ON)]),
    ],
)
def test_spans_of_chemotherapy_that_touch_are_one(
    spans: list[tuple[float, float]], switches: list[tuple[float, int]]
) -> None:
    treatment = Treatment(chemotherapy=tuple(ChemotherapyCourse(*span) for span in spans))
    assert [event for event in events_of(treatment) if event[1] in (ON, OFF)] == switches


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 60)), max_size=5))
def test_chemotherapy_counts_each_day_once(spans: list[tuple[int, int]]) -> None:
    courses = tuple(ChemotherapyCourse(float(start), float(start + length)) for start, length in spans)
    law = Exponential(0.0, Response(chemo_rate_per_day=0.01))
    size = size_after(law, np.array([200.0]), 1.0, treatment=Treatment(chemotherapy=courses))[0]
    covered = {day for start, length in spans for day in range(start, start + length)}
    assert size == pytest.approx(math.exp(-0.01 * len(covered)), rel=1e-12)


# size_after.


@pytest.mark.parametrize("name", LawName)
def test_size_after_is_sizes_of_its_row(name: LawName) -> None:
    law = EACH_LAW[name]
    treatment = Treatment((RadiotherapyCourse(28.0, 70.0),), (ChemotherapyCourse(28.0, 70.0),), (200.0,))
    sizes = size_after(law, DAYS, 3.0, origin_day=30.0, treatment=treatment, residuals=(0.3,))
    expected = sizes_of(name, timeline_of(treatment, 30.0, DAYS), row_of(law, 3.0, (0.3,))[None])[0]
    assert sizes.tolist() == expected.tolist()
    assert sizes[1] == pytest.approx(3.0, rel=1e-14)


@pytest.mark.parametrize("name", LawName)
def test_a_tumour_of_no_size_stays_none(name: LawName) -> None:
    assert size_after(EACH_LAW[name], DAYS, 0.0).tolist() == [0.0] * DAYS.size


def test_killed_cells_grow_before_the_delay_and_die_after_it() -> None:
    law = Exponential(0.0, Response(decay_rate_per_day=0.05, delay_days=40.0, slope_per_day=0.5, survival=0.2))
    days = np.array([0.0, 10.0, 40.0, 45.0, 60.0, 1000.0])
    sizes = size_after(law, days, 1.0, treatment=Treatment((RadiotherapyCourse(0.0, 42.0),)))
    assert sizes[0] < sizes[1] < sizes[2] and sizes[2] > sizes[3] > sizes[4] > sizes[5]
    assert sizes[-1] == pytest.approx(0.2, rel=1e-12)  # the survivors


def test_misuse_raises() -> None:
    with pytest.raises(ValueError, match=r"-1\.0 is negative"):
        size_after(Exponential(0.1), DAYS, -1.0)
    with pytest.raises(ValueError, match=r"1 .* 0 resections"):
        size_after(Exponential(0.1), DAYS, 1.0, residuals=(0.5,))
    with pytest.raises(ValueError, match=r"0 .* 2 resections"):
        size_after(Exponential(0.1), DAYS, 1.0, treatment=Treatment(resection_days=(1.0, 2.0)))
