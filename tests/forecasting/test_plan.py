"""Units of work, their plan and their keys."""

from pathlib import Path

import numpy as np
import pytest

from tumorcast.data.cohort import Cohort
from tumorcast.forecasting.plan import PatientPlan, PlannedSlice, RunPlan, member_noise, plan_patient
from tumorcast.settings import ForecastSettings

FIXED = ForecastSettings(relative_change=0.25, members=4)


def test_the_slices_with_tumour_of_the_last_scan_are_planned(blob_cohort: Path) -> None:
    with Cohort.open(blob_cohort) as cohort:
        planned = plan_patient(cohort, "A", None)
        assert [place.name for place in planned.slices] == ["0010", "0011", "0012"]
        assert planned.session_id == "002"
        assert plan_patient(cohort, "C", None).slices == ()
        assert len(plan_patient(cohort, "A", 1).slices) == 1


def patient(name: str, slices: int) -> PatientPlan:
    return PatientPlan(name, "000", tuple(PlannedSlice(k, 40 + k) for k in range(slices)))


@pytest.mark.parametrize(("members", "batch", "block"), [(8, 16, 64), (100, 16, 64), (1, 4, 64), (5, 5, 2)])
def test_every_member_of_every_slice_is_in_one_unit(members: int, batch: int, block: int) -> None:
    settings = ForecastSettings(relative_change=0.25, members=members, batch=batch, block=block)
    plan = RunPlan.of((patient("A", 3), patient("none", 0), patient("B", 1)), settings)
    every = [plan[number] for number in range(len(plan))]
    assert every == [unit for place in range(3) for unit in plan.units_of(place)]
    assert len({unit.key for unit in every}) == len(plan)
    covered = [(u.patient_id, s.name, m) for u in every for s in u.slices for m in range(u.first, u.last)]
    wanted = [
        (p, s, m) for p, s in [("A", "0040"), ("A", "0041"), ("A", "0042"), ("B", "0040")] for m in range(members)
    ]
    assert sorted(covered) == sorted(wanted)
    assert all(unit.last - unit.first <= block for unit in every)
    order = plan.longest_first()
    assert sorted(order) == list(range(len(plan)))
    assert list(np.diff([every[number].images for number in order]) <= 0) == [True] * (len(plan) - 1)
    assert RunPlan.from_json(plan.to_json()) == plan


def test_a_plan_of_nobody_is_empty() -> None:
    plan = RunPlan.of((), FIXED)
    assert (len(plan), plan.longest_first().size) == (0, 0)


def test_noise_belongs_to_the_member_alone() -> None:
    same = member_noise("A", 10, 3, 0, (2, 2))
    np.testing.assert_array_equal(member_noise("A", 10, 3, 0, (2, 2)), same)
    others = [
        member_noise("A", 10, 4, 0, (2, 2)),
        member_noise("A", 10, 3, 1, (2, 2)),
        member_noise("B", 10, 3, 0, (2, 2)),
        member_noise("A", 11, 3, 0, (2, 2)),
    ]
    assert all(not np.array_equal(same, other) for other in others)
