"""The closed form against the differential equations that it solves, and its derivatives against differences."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from tumorcast.kernels import growth

# rate, decay rate, delay, slope, survival, initial size
ROWS = {
    "ordinary": (0.01, 0.03, 60.0, 0.05, 0.1, 375.0),
    "slow switch": (0.02, 0.01, 150.0, 0.001, 0.2, 1.0),
    "extreme slope": (0.005, 0.05, 40.0, 600.0, 0.001, 2.0),
    "fast death": (0.001, 5.0, 0.5, 0.3, 0.15, 10.0),
    "shrinking": (-0.01, 0.02, 20.0, 0.1, 0.9, 1.0),
}
DAYS = np.array([0.0, 5.0, 28.0, 28.5, 60.0, 75.0, 110.0, 200.0, 366.0])
COURSES = {"none": [], "one": [28.0], "three": [28.0, 70.0, 190.0]}


def sizes_of(row: tuple[float, ...], courses: list[float], days: np.ndarray, origin: float = 0.0) -> np.ndarray:
    out = np.empty(days.size)
    growth.fill_sizes(days, growth.Timeline(origin, np.array(courses)), np.array(row), out)
    return out


def integrate(row: tuple[float, ...], courses: list[float], days: np.ndarray) -> np.ndarray:
    """The same sizes from solve_ivp on the log of each population, restarted wherever the equation bends sharply."""
    rate, decay, delay, slope, survival, size = row

    def log_population(start_day: float, value: float, derivative) -> np.ndarray:  # type: ignore[no-untyped-def]
        bends = {start_day, *days[days > start_day]}
        bends |= {start_day + delay + side * 20.0 / slope for side in (-1, -0.1, 0, 0.1, 1)}
        knots = sorted(bend for bend in bends if start_day <= bend <= days[-1])
        values = {start_day: value}
        for left, right in pairwise(knots):
            solution = solve_ivp(
                derivative, (left, right), [values[left]], method="DOP853", rtol=1e-12, atol=1e-13, max_step=5.0
            )
            values[right] = float(solution.y[0, -1])
        return np.array([values.get(day, -math.inf) for day in days])

    boundaries = [float(days[0]), *courses]
    living = math.log(size)
    total = np.zeros(days.size)
    for k, start in enumerate(boundaries):
        if k > 0:
            living += rate * (start - boundaries[k - 1])
            dying = log_population(
                start,
                living + math.log(1 - survival),
                lambda t, _, start=start: [-decay * math.tanh(slope * (t - start - delay))],
            )
            total += np.where(days > start, np.exp(dying), 0.0)
            living += math.log(survival)
        end = boundaries[k + 1] if k + 1 < len(boundaries) else math.inf
        inside = (days > start) & (days <= end) | (days == days[0]) & (k == 0)
        total += np.where(inside, np.exp(living + rate * (days - start)), 0.0)
    return total


@pytest.mark.parametrize("courses", COURSES.values(), ids=COURSES.keys())
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_closed_form_solves_the_equations(row: tuple[float, ...], courses: list[float]) -> None:
    np.testing.assert_allclose(sizes_of(row, courses, DAYS), integrate(row, courses, DAYS), rtol=1e-10)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_scalar_vector_and_batch_agree(row: tuple[float, ...]) -> None:
    timeline = growth.Timeline(0.0, np.array([28.0]))
    rows = np.array([row, row])
    batch = np.empty((2, DAYS.size))
    growth.fill_trajectories(DAYS, timeline, rows, batch)
    single = [growth.size_at(day, timeline, rows[0]) for day in DAYS]
    assert batch.tolist() == [single, single] == [sizes_of(row, [28.0], DAYS).tolist()] * 2


@pytest.mark.parametrize("origin", [40.0, 100.0])
def test_origin_after_treatment_is_the_same_curve(origin: float) -> None:
    row = ROWS["ordinary"]
    whole = sizes_of(row, [28.0], np.array([origin, 200.0]))
    later = sizes_of((*row[:5], whole[0]), [28.0], np.array([origin, 200.0]), origin)
    np.testing.assert_allclose(later, whole, rtol=1e-12)


def test_full_survival_is_untreated_growth() -> None:
    row = (0.01, 0.05, 30.0, 0.1, 1.0, 3.0)
    np.testing.assert_allclose(sizes_of(row, [28.0, 70.0], DAYS), 3.0 * np.exp(0.01 * DAYS), rtol=1e-13)


def test_changes_are_ratios_of_sizes() -> None:
    rows = np.array(list(ROWS.values()))
    changes = np.empty(len(rows))
    growth.fill_changes(200.0, growth.Timeline(60.0, np.array([28.0, 70.0])), rows, changes)
    ratios = [sizes[1] / sizes[0] for sizes in (sizes_of(row, [28.0, 70.0], np.array([60.0, 200.0])) for row in rows)]
    np.testing.assert_allclose(changes, ratios, rtol=1e-12)


parameter_rows = st.tuples(
    st.floats(0.001, 2.0),
    st.floats(0.001, 100.0),
    st.floats(0.001, 300.0),
    st.floats(0.001, 600.0),
    st.floats(0.001, 0.2),
    st.floats(0.1, 10.0),
)


@given(parameter_rows, st.lists(st.floats(-100.0, 400.0), max_size=3).map(sorted))
def test_every_row_within_the_papers_bounds_is_finite(row: tuple[float, ...], courses: list[float]) -> None:
    sizes = sizes_of(row, courses, DAYS)
    assert np.all(np.isfinite(sizes)) and np.all(sizes >= 0)
    np.testing.assert_allclose(sizes[0], row[growth.INITIAL_SIZE], rtol=1e-9)


@given(st.floats(-50.0, 50.0))
def test_log_cosh(x: float) -> None:
    assert growth.log_cosh(x) == pytest.approx(math.log(math.cosh(x)), rel=1e-9, abs=1e-15)
    assert growth.log_cosh(1e-5) == pytest.approx(0.5e-10, rel=1e-9, abs=0)
    assert growth.log_cosh(1e6) == pytest.approx(1e6 - math.log(2), rel=1e-15)


@pytest.mark.parametrize("origin", [0.0, 100.0])
@pytest.mark.parametrize("courses", COURSES.values(), ids=COURSES.keys())
@pytest.mark.parametrize("name", ["ordinary", "slow switch", "fast death", "shrinking"])
def test_jacobian_against_central_differences(name: str, courses: list[float], origin: float) -> None:
    row, days = np.array(ROWS[name]), DAYS[origin <= DAYS]
    sizes = sizes_of(row, courses, days, origin)
    jacobian = np.empty((days.size, growth.PARAMETERS))
    growth.fill_jacobian(days, growth.Timeline(origin, np.array(courses)), row, sizes, jacobian)
    for j in range(growth.PARAMETERS):
        step = np.zeros(growth.PARAMETERS)
        step[j] = 1e-5 * abs(row[j])
        above, below = (sizes_of(row + sign * step, courses, days, origin) for sign in (1, -1))
        expected = (above - below) / (2 * step[j])
        atol = 1e-9 * np.max(sizes) / abs(row[j])
        np.testing.assert_allclose(jacobian[:, j], expected, rtol=1e-6, atol=atol, err_msg=str(j))
