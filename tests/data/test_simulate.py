"""The simulated cohort: the same for any size of the cohort, in the layout it claims, with tumours that behave."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data import simulate
from tumorcast.data.simulate import draw_schedule, simulate_cohort
from tumorcast.data.simulated import anatomy as anatomy_module
from tumorcast.data.simulated.anatomy import make_anatomy
from tumorcast.data.simulated.fields import Grid, smooth_field
from tumorcast.data.simulated.render import draw_scanners, render_session
from tumorcast.data.simulated.tumour import (
    MAX_BRAIN_FRACTION,
    TumourKind,
    draw_labels,
    draw_traits,
    first_state,
    make_medium,
    state_after,
)
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.records import Contrast, RadiotherapyCourse

COARSE_MM = 6.0
SUFFIXES = [*Contrast, "seg"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "cohort"
    simulate_cohort(out, patients=2, seed=5, sessions=(2, 3), voxel_mm=COARSE_MM)
    return out


@pytest.fixture(scope="module")
def head():
    return make_anatomy(np.random.default_rng(3), Grid(COARSE_MM))


def grown(head, seed=1, **traits):
    """A tumour at its first scan with what it grows in."""
    rng = np.random.default_rng(seed)
    drawn = replace(draw_traits(rng), first_volume_mm3=30_000.0, speed_mm_per_day=0.03, **traits)
    medium = make_medium(rng, head, drawn)
    return first_state(rng, head, drawn, medium), drawn, medium


def volumes(folder):
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob("*/*.nii.gz"))}


def clinical(folder):
    with (folder / "clinical.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_session_has_its_five_files_on_the_brats_field(cohort):
    sessions = [f"{row['patient_id']}-{row['session_id']}" for row in clinical(cohort)]
    assert {path.name for path in cohort.iterdir() if path.is_dir()} == set(sessions)
    assert len(sessions) >= 4
    for name in sessions:
        for suffix in SUFFIXES:
            image = sitk.ReadImage(str(cohort / name / f"{name}-{suffix}.nii.gz"))
            assert image.GetSize() == (40, 40, 26)
            assert image.GetSpacing() == (COARSE_MM,) * 3
            assert image.GetOrigin() == pytest.approx((2.5, -236.5, 2.5))
            assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_images_are_skull_stripped_int16_and_labels_are_of_brats_2023(cohort):
    for name in {path.name for path in cohort.iterdir() if path.is_dir()}:
        found = {suffix: volumes(cohort)[f"{name}-{suffix}.nii.gz"] for suffix in SUFFIXES}
        brain = found[Contrast.T1N] > 0
        assert 0.8e6 < brain.sum() * COARSE_MM**3 < 2.2e6
        assert set(np.unique(found["seg"])) <= {0, 1, 2, 3}
        assert found["seg"].any()
        assert not found["seg"][~brain].any()
        for contrast in Contrast:
            assert found[contrast].dtype == np.int16
            assert np.array_equal(found[contrast] > 0, brain)


def test_a_patient_is_the_same_in_any_cohort_and_with_any_number_of_processes(cohort, tmp_path):
    simulate_cohort(tmp_path / "one", patients=1, seed=5, sessions=(2, 3), voxel_mm=COARSE_MM)
    simulate_cohort(tmp_path / "jobs", patients=2, seed=5, sessions=(2, 3), voxel_mm=COARSE_MM, jobs=2)
    reference, one, jobs = volumes(cohort), volumes(tmp_path / "one"), volumes(tmp_path / "jobs")
    assert set(reference) == set(jobs)
    assert 0 < len(one) < len(reference)
    for other in (one, jobs):
        assert all(np.array_equal(array, reference[name]) for name, array in other.items())
    assert (cohort / "clinical.csv").read_bytes() == (tmp_path / "jobs" / "clinical.csv").read_bytes()
    assert (cohort / "simulation.json").read_bytes() == (tmp_path / "jobs" / "simulation.json").read_bytes()


def test_another_seed_gives_another_head(cohort, tmp_path):
    simulate_cohort(tmp_path / "other", patients=1, seed=6, sessions=2, voxel_mm=COARSE_MM)
    name = "SIM-00001-000-t1n.nii.gz"
    assert not np.array_equal(volumes(tmp_path / "other")[name] > 0, volumes(cohort)[name] > 0)


def test_the_truth_names_the_seed_and_the_volumes_of_the_masks(cohort):
    truth = json.loads((cohort / "simulation.json").read_text())
    assert (truth["seed"], truth["voxel_mm"], len(truth["patients"])) == (5, COARSE_MM, 2)
    for patient in truth["patients"]:
        for number, volume_mm3 in enumerate(patient["volume_mm3"]):
            seg = volumes(cohort)[f"{patient['patient_id']}-{number:03d}-seg.nii.gz"]
            assert volume_mm3 == (seg > 0).sum() * COARSE_MM**3


def test_schedules_are_irregular_and_radiotherapy_follows_the_first_scan():
    schedules = [draw_schedule(np.random.default_rng(seed), (3, 5)) for seed in range(200)]
    gaps = np.concatenate([np.diff(schedule.scan_days) for schedule in schedules])
    assert (gaps.min() >= 60, gaps.max() <= 200, len(set(gaps)) > 50) == (True, True, True)
    assert {len(schedule.scan_days) for schedule in schedules} == {3, 4, 5}
    treated = [schedule for schedule in schedules if schedule.course is not None]
    assert 0.6 < len(treated) / len(schedules) < 0.95
    for schedule in treated:
        assert 14 <= schedule.course.start_days - schedule.scan_days[0] <= 42
        assert schedule.course.end_days - schedule.course.start_days == 42


def test_tissues_fill_the_brain_and_nothing_else(head):
    total = head.csf + head.grey + head.white
    np.testing.assert_allclose(total[head.brain], 1.0, rtol=1e-5)
    assert not total[~head.brain].any()
    assert min(head.csf.min(), head.grey.min(), head.white.min()) >= 0


def test_a_later_mask_contains_the_earlier_one_without_treatment(head):
    state, traits, medium = grown(head)
    masks = []
    for day in (0.0, 100.0, 200.0):
        state = state_after(state, head, traits, medium, from_day=day, to_day=day + 100.0, course=None)
        masks.append(draw_labels(state, head, traits, medium) > 0)
    assert 0 < masks[0].sum() < masks[1].sum() < masks[2].sum()
    assert not (masks[0] & ~masks[1]).any()
    assert not (masks[1] & ~masks[2]).any()


def test_radiotherapy_leaves_less_tumour_than_no_radiotherapy(head):
    state, traits, medium = grown(head, survival=0.2, scar=0.1, delay_days=0.0, fading_days=20.0)
    course = RadiotherapyCourse(14.0, 56.0)
    treated = state_after(state, head, traits, medium, from_day=0.0, to_day=100.0, course=course)
    untreated = state_after(state, head, traits, medium, from_day=0.0, to_day=100.0, course=None)
    assert treated.visible.sum() < state.visible.sum() < untreated.visible.sum()
    sizes = [(draw_labels(one, head, traits, medium) > 0).sum() for one in (treated, untreated)]
    assert sizes[0] < sizes[1]


def test_the_dying_fade_by_the_same_amount_in_one_or_many_intervals(head):
    state, traits, medium = grown(head, survival=0.3)
    course = RadiotherapyCourse(0.0, 42.0)
    at_once = state_after(state, head, traits, medium, from_day=0.0, to_day=140.0, course=course)
    half = state_after(state, head, traits, medium, from_day=0.0, to_day=70.0, course=course)
    in_two = state_after(half, head, traits, medium, from_day=70.0, to_day=140.0, course=course)
    np.testing.assert_allclose(at_once.visible, in_two.visible, rtol=1e-4, atol=1e-5)


def test_growth_ends_at_the_largest_share_of_the_brain(head):
    state, traits, medium = grown(head)
    fast = replace(traits, first_volume_mm3=1e9)
    largest = first_state(np.random.default_rng(0), head, fast, medium)
    later = state_after(largest, head, fast, medium, from_day=0.0, to_day=2000.0, course=None)
    mask = draw_labels(later, head, fast, medium) > 0
    assert MAX_BRAIN_FRACTION <= mask.sum() / head.brain.sum() < MAX_BRAIN_FRACTION + 0.05
    assert (state.living <= 1.0001).all()


def test_nothing_enhances_without_enhancement_and_midline_tumours_start_in_the_midline(head):
    state, traits, medium = grown(head, kind=TumourKind.MIDLINE, enhancement=0.0)
    labels = draw_labels(state, head, traits, medium)
    assert not (labels == 3).any()
    centre = head.template_index[:, labels > 0].mean(axis=1)
    assert abs(centre[2] - 98.0) < 25.0


@pytest.mark.parametrize(
    ("contrast", "brighter", "darker"),
    [
        (Contrast.T1N, "white", "csf"),
        (Contrast.T1C, "enhancing", "necrosis"),
        (Contrast.T2W, "csf", "white"),
        (Contrast.T2F, "oedema", "csf"),
    ],
)
def test_tissues_are_ordered_as_in_each_contrast(head, contrast, brighter, darker):
    labels = np.zeros(head.grid.shape, np.uint8)
    labels[8:18, 14:24, 10:20] = 2
    labels[10:14, 16:22, 12:18] = 1
    labels[14:17, 16:22, 12:18] = 3
    labels *= head.brain
    density = (labels > 0).astype(np.float32)
    scanners = draw_scanners(np.random.default_rng(1), head.grid)
    image = render_session(np.random.default_rng(2), head, labels, density, scanners)[contrast].astype(float)
    healthy = labels == 0
    where = {
        "white": healthy & (head.white > 0.9),
        "csf": healthy & (head.csf > 0.85),
        "necrosis": labels == 1,
        "oedema": (labels == 2) & (head.white > 0.5),
        "enhancing": labels == 3,
    }
    assert np.median(image[where[brighter]]) > np.median(image[where[darker]])


def test_a_smooth_field_does_not_depend_on_the_voxel_size():
    coarse = smooth_field(np.random.default_rng(0), Grid(6.0), 40.0)
    fine = smooth_field(np.random.default_rng(0), Grid(2.0), 40.0)
    blocks = fine[: 3 * coarse.shape[0], : 3 * coarse.shape[1], : 3 * coarse.shape[2]][1::3, 1::3, 1::3]
    part = coarse[: blocks.shape[0], : blocks.shape[1], : blocks.shape[2]]
    assert np.corrcoef(blocks.ravel(), part.ravel())[0, 1] > 0.95
    assert fine.std() == pytest.approx(1.0, abs=0.35)


def test_progress_counts_patients(tmp_path):
    seen = []
    simulate_cohort(
        tmp_path / "out", patients=2, seed=0, sessions=1, voxel_mm=8.0, progress=lambda *now: seen.append(now)
    )
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"patients": 0}, "patients = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"sessions": (3, 2)}, "sessions = 3 to 2"),
        ({"voxel_mm": 0.1}, r"voxel_mm = 0\.1"),
        ({"voxel_mm": float("nan")}, "voxel_mm = nan"),
        ({"jobs": 0}, "jobs = 0"),
    ],
)
def test_numbers_out_of_range_are_usage_errors(tmp_path, wrong, named):
    with pytest.raises(UsageError, match=named):
        simulate_cohort(tmp_path / "out", **{"patients": 1, "seed": 0, **wrong})
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_a_folder_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "cohort"):
        with pytest.raises(InputError, match="cannot be made a folder"):
            simulate_cohort(out, patients=1, seed=0, voxel_mm=8.0)


def test_a_folder_in_use_is_not_written_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        simulate_cohort(tmp_path, patients=1, seed=0, voxel_mm=8.0)


def test_a_full_disk_is_an_input_error(tmp_path, monkeypatch):
    def fail(*_args, **_settings):
        raise RuntimeError("ITK: no space left")

    monkeypatch.setattr(simulate.sitk, "WriteImage", fail)
    with pytest.raises(InputError, match="cannot be written"):
        simulate_cohort(tmp_path / "out", patients=1, seed=0, sessions=1, voxel_mm=8.0)


def test_without_nilearn_the_message_names_the_package(monkeypatch):
    monkeypatch.setattr(anatomy_module, "find_spec", lambda _name: None)
    with pytest.raises(EngineError, match="nilearn is not installed"):
        anatomy_module._template_folder()
