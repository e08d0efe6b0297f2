import numpy as np
import pytest

from tumorcast.growth.laws import (
    DEFAULT_BOUNDS,
    PAPER_BOUNDS,
    PARAMETER_NAMES,
    Bound,
    BoundsPreset,
    Exponential,
    law_of,
    row_of,
    size_after,
    timeline_of,
)
from tumorcast.records import RadiotherapyCourse, Treatment


def test_row_and_law_are_inverse() -> None:
    law = Exponential(0.01, 0.02, 40.0, 0.3, 0.1)
    row = row_of(law, 5.0)
    assert law_of(row) == law
    assert dict(zip(PARAMETER_NAMES, row, strict=True))["initial_size"] == 5.0


def test_courses_are_put_in_order() -> None:
    courses = (RadiotherapyCourse(200.0, 242.0), RadiotherapyCourse(28.0, 70.0))
    assert timeline_of(Treatment(courses), 3.0).courses.tolist() == [28.0, 200.0]


def test_paper_bounds_are_the_papers() -> None:
    assert PAPER_BOUNDS.lower().tolist() == [0.001, 0.001, 0.001, 0.001, 0.001, 0.9]
    assert PAPER_BOUNDS.upper().tolist() == [2.0, 100.0, 300.0, 600.0, 0.2, 1.1]
    assert BoundsPreset("paper").bounds is PAPER_BOUNDS


def test_only_ranges_that_are_positive_are_searched_as_logarithms() -> None:
    assert DEFAULT_BOUNDS.log_scaled().tolist() == [False, True, True, True, True, True]


def test_middle() -> None:
    assert Bound(1.0, 100.0).middle == pytest.approx(10.0)
    assert Bound(-1.0, 3.0).middle == 1.0


def test_negative_size_is_misuse() -> None:
    with pytest.raises(ValueError, match="negative"):
        size_after(Exponential(0.1), np.array([1.0]), -1.0)
