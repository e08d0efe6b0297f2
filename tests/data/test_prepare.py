"""From folders of scans to a cohort file: what is kept, what fails alone, what real data give."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data import prepare
from tumorcast.data.cohort import Cohort, SizeMeasure
from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.imaging.geometry import Grid, Interpolation, to_source_grid
from tumorcast.data.prepare import (
    CohortReport,
    PrepareSettings,
    SliceChoice,
    Status,
    TumourPart,
    prepare_cohort,
    prepare_session,
)
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.errors import EngineError, InputError, StoppedError, UsageError
from tumorcast.records import ChemotherapyCourse, Contrast, RadiotherapyCourse, Session, Treatment

SMALL = PrepareSettings(image_size=64, min_tumour_mm2=5.0)
EXACT = PrepareSettings(image_size=256, slices=SliceChoice.ALL)


def prepared(folder: Path, settings: PrepareSettings) -> Session:
    (source,) = find_scans(folder, Layout.BRATS).sessions
    return prepare_session(source, settings)


def fates(report: CohortReport) -> list[tuple[str, str]]:
    return [(f"{one.patient_id}/{one.session_id}", str(one.status)) for one in report.outcomes]


def test_a_session_at_1_mm_is_the_source_itself(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    scan(tmp_path, "P1")
    session = prepared(tmp_path, EXACT)
    labels, brain = make_phantom("seg"), make_phantom("t1n") > 0
    window = np.s_[:, 110:146, 108:148]  # 256 pixels round 36 rows and 40 columns
    kept = session.source_slice
    np.testing.assert_array_equal(session.labels[window], labels[kept])
    np.testing.assert_array_equal(session.brain[window], brain[kept])
    assert session.labels.sum() == labels[kept].sum()
    np.testing.assert_array_equal(session.area_mm2, (labels[kept] > 0).sum(axis=(1, 2)))
    np.testing.assert_array_equal(session.brain_mm2, brain[kept].sum(axis=(1, 2)))
    assert session.volume_mm3 == (labels > 0).sum()
    assert session.images.dtype == np.float32
    assert session.images.shape == (len(kept), 4, 256, 256)
    assert (session.images[:, 0][~session.brain] == -1).all()
    assert (np.abs(session.images) <= 1).all()
    assert session.images.max() == pytest.approx(1.0)


@pytest.mark.parametrize("code", ["RAS", "LPI", "ASL", "PIR", "oblique"])
def test_prepared_labels_come_home_exactly(
    tmp_path: Path, scan: Callable, make_phantom: Callable, save_nifti: Callable, code: str
) -> None:
    folder = scan(tmp_path, "P1")
    for path in folder.iterdir():
        image = sitk.ReadImage(str(path))
        if code == "oblique":
            c, s = np.cos(0.3), np.sin(0.3)
            image.SetDirection((c, -s, 0.0, -s, -c, 0.0, 0.0, 0.0, -1.0))
            image.SetOrigin((5.0, -40.0, 12.0))
        else:
            image = sitk.DICOMOrient(image, code)
        sitk.WriteImage(image, str(path))
    session = prepared(tmp_path, EXACT)
    home = to_source_grid(
        session.labels,
        session.source_slice,
        Grid.from_dict(session.source["grid"]),
        interpolation=Interpolation.NEAREST,
    )
    original = sitk.ReadImage(str(folder / "P1-seg.nii.gz"))
    assert original.GetSize() == home.GetSize()
    assert home.GetDirection() == pytest.approx(original.GetDirection(), abs=1e-7)  # headers hold single precision
    assert home.GetOrigin() == pytest.approx(original.GetOrigin(), abs=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(home), sitk.GetArrayFromImage(original))


def test_orientation_does_not_change_the_slices(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path / "a", "P1")
    folder = scan(tmp_path / "b", "P1")
    for path in folder.iterdir():
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAI"), str(path))
    first, second = prepared(tmp_path / "a", EXACT), prepared(tmp_path / "b", EXACT)
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.source_slice, second.source_slice)


def test_only_the_part_that_is_followed_counts(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    """The phantom's core is label 3 within label 2."""
    settings = PrepareSettings(image_size=256, tumour=TumourPart.ENHANCING, min_tumour_mm2=5.0)
    mask = make_phantom("seg")
    scan(tmp_path / "a", "P1")
    session = prepared(tmp_path / "a", settings)
    assert set(np.unique(session.labels)) == {0, 3}
    assert session.volume_mm3 == (mask == 3).sum()
    scan(tmp_path / "b", "P1", seg=np.where(mask > 0, 2, 0).astype(np.uint8))
    none = prepared(tmp_path / "b", settings)
    assert none.volume_mm3 == 0 and none.images.shape[0] == 0
    assert "no label 3 (--tumour enhancing), only 2" in none.source["notes"][0]


def test_old_label_4_is_read_as_3(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    labels = make_phantom("seg")
    labels[labels == 3] = 4
    labels[labels == 1] = 4
    scan(tmp_path, "BraTS2021_00001", seg=labels)
    assert set(np.unique(prepared(tmp_path, EXACT).labels)) == {0, 2, 3}


@pytest.mark.parametrize("image_size", [64, 128, 256])
@pytest.mark.parametrize("radius", [3.0, 9.0])
def test_prepared_tumour_keeps_its_area(tmp_path: Path, scan: Callable, image_size: int, radius: float) -> None:
    scan(tmp_path, "P1", tumour_radius=radius)
    session = prepared(tmp_path, PrepareSettings(image_size=image_size, min_tumour_mm2=5.0))
    pixel_mm2 = (256 / image_size) ** 2
    areas = (session.labels > 0).sum(axis=(1, 2)) * pixel_mm2
    assert np.abs(areas - session.area_mm2).max() <= pixel_mm2 / 2


@pytest.mark.parametrize("choice", list(SliceChoice))
@pytest.mark.parametrize("pixels", [1, 6])
def test_a_tumour_far_below_a_pixel_keeps_one(
    tmp_path: Path, scan: Callable, make_phantom: Callable, choice: SliceChoice, pixels: int
) -> None:
    labels = np.zeros_like(make_phantom("seg"))
    labels[2, 18, 18 : 18 + pixels] = 3  # of 16 that a pixel at 64 covers
    scan(tmp_path, "P1", seg=labels)
    session = prepared(tmp_path, PrepareSettings(image_size=64, slices=choice, min_tumour_mm2=1.0))
    assert session.area_mm2.max() == pixels
    np.testing.assert_array_equal((session.labels == 3).sum(axis=(1, 2)), session.area_mm2 > 0)


def test_a_tumour_beyond_the_field_of_view_is_no_slice(tmp_path: Path, save_nifti: Callable) -> None:
    wide = np.zeros((2, 40, 300), np.int16)
    wide[:, 5:35, 5:295] = np.arange(290)
    mask = np.zeros(wide.shape, np.uint8)
    mask[0, 10:30, 6:20] = 1  # the field of view covers columns 22 to 278
    mask[1, 10:30, 6:23] = 1
    save_nifti(tmp_path / "scans/P1-t1c.nii.gz", wide)
    save_nifti(tmp_path / "scans/P1-seg.nii.gz", mask)
    session = prepared(tmp_path / "scans", PrepareSettings(image_size=64))
    assert session.source_slice.tolist() == [1]
    assert session.labels.any()
    assert prepared(
        tmp_path / "scans", PrepareSettings(image_size=64, slices=SliceChoice.LARGEST)
    ).source_slice.tolist() == [1]
    mask[1] = 0
    save_nifti(tmp_path / "scans/P1-seg.nii.gz", mask)
    with pytest.raises(InputError, match="no slice with 50 mm²"):
        prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", PrepareSettings(image_size=64))


def test_volume_counts_the_distance_of_slices(tmp_path: Path, make_phantom: Callable, save_nifti: Callable) -> None:
    for kind in ("t1c", "seg"):
        thick = sitk.GetImageFromArray(make_phantom(kind))
        thick.SetSpacing((0.5, 2.0, 3.0))
        save_nifti(tmp_path / f"P1-{kind}.nii.gz", make_phantom(kind), thick)
    session = prepared(tmp_path, EXACT)
    assert session.volume_mm3 == pytest.approx(3.0 * (make_phantom("seg") > 0).sum())
    assert session.area_mm2.max() == (make_phantom("seg") > 0).sum(axis=(1, 2)).max()


def test_slice_choices(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path, "P1")
    chosen = {
        choice: prepared(
            tmp_path, PrepareSettings(image_size=64, slices=choice, min_tumour_mm2=60.0)
        ).source_slice.tolist()
        for choice in SliceChoice
    }
    assert chosen == {
        SliceChoice.TUMOUR: [1, 2, 3, 4],
        SliceChoice.ALL: [0, 1, 2, 3, 4, 5],
        SliceChoice.LARGEST: [2],
        SliceChoice.BALANCED: [0, 1, 2, 3, 4, 5],
    }
    assert prepared(tmp_path, PrepareSettings(image_size=64, min_tumour_mm2=140.0)).source_slice.tolist() == [2, 3]


def test_chosen_contrasts_keep_their_order(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path, "P1")
    session = prepared(tmp_path, PrepareSettings(image_size=64, contrasts=(Contrast.T2F, Contrast.T1C)))
    assert session.contrasts == (Contrast.T1C, Contrast.T2F)
    assert session.images.shape[1] == 2


def test_absent_mask(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path, "P1", skip="seg")
    for choice in (SliceChoice.TUMOUR, SliceChoice.LARGEST):
        with pytest.raises(InputError, match=rf"no tumour mask \(seg\), which --slices {choice} needs.*--slices all"):
            prepared(tmp_path, PrepareSettings(image_size=64, slices=choice))
    session = prepared(tmp_path, PrepareSettings(image_size=64, slices=SliceChoice.ALL))
    assert np.isnan(session.volume_mm3)
    assert np.isnan(session.area_mm2).all()
    assert not session.labels.any()


def test_constant_brain(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    scan(tmp_path, "P1", t1c=(make_phantom("t1c") > 0).astype(np.int16))
    with pytest.raises(InputError, match=r"P1-t1c.nii.gz: one value"):
        prepared(tmp_path, SMALL)


def test_one_bad_scan_does_not_stop_the_cohort(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    scans = tmp_path / "scans"
    scan(scans, "P1")
    scan(scans, "P2", t1c=np.zeros_like(make_phantom("t1c")))
    scan(scans, "P3", seg=np.zeros_like(make_phantom("seg")))
    scan(scans, "P4", skip="seg")
    told: list[str] = []
    report = prepare_cohort(scans, tmp_path / "c.h5", SMALL, on_outcome=lambda one: told.append(one.patient_id))
    assert fates(report) == [("P1/000", "ok"), ("P2/000", "failed"), ("P3/000", "skipped"), ("P4/000", "failed")]
    assert told == ["P1", "P2", "P3", "P4"]
    assert "every voxel is 0" in report.outcomes[1].reason
    assert "the tumour mask is empty" in report.outcomes[2].reason
    assert [report.count(status) for status in Status] == [1, 2, 1]
    with Cohort.open(tmp_path / "c.h5") as cohort:
        assert cohort.patient_ids() == ["P1"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (RuntimeError("ITK\n  ERROR: orientation"), "RuntimeError: ITK ERROR: orientation"),
        (ValueError("All-NaN slice"), "ValueError: All-NaN slice"),
        (MemoryError("8 GiB"), "MemoryError: 8 GiB"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
    ],
)
def test_a_fault_that_was_not_foreseen_costs_one_scan(
    *,
    tmp_path: Path,
    scan: Callable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception,
    reason: str,
) -> None:
    def fragile(source: SourceSession, settings: PrepareSettings, space: None) -> Session:
        if source.patient_id == "P2":
            raise fault
        return prepare_session(source, settings)

    for name in ("P1", "P2", "P3"):
        scan(tmp_path / "scans", name)
    monkeypatch.setattr(prepare, "prepare_session", fragile)
    with caplog.at_level(logging.DEBUG, logger=prepare.__name__):
        report = prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", SMALL)
    assert fates(report) == [("P1/000", "ok"), ("P2/000", "failed"), ("P3/000", "ok")]
    assert report.outcomes[1].reason == reason
    (record,) = [one for one in caplog.records if "Traceback" in one.getMessage()]
    assert record.levelno == logging.DEBUG
    assert "P2/000" in record.getMessage()


def test_a_stop_is_no_fault_of_a_scan(tmp_path: Path, scan: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise StoppedError("stopped")

    scan(tmp_path / "scans", "P1")
    monkeypatch.setattr(prepare, "prepare_session", stop)
    with pytest.raises(StoppedError):
        prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", SMALL)


def test_a_constant_volume_fails_alone(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    scan(tmp_path / "scans", "P1", t1n=np.full_like(make_phantom("t1n"), 100))
    scan(tmp_path / "scans", "P2")
    report = prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", SMALL)
    assert fates(report) == [("P1/000", "failed"), ("P2/000", "ok")]
    assert "P1-t1n.nii.gz: every voxel is 100; export it again" in report.outcomes[0].reason


class Deadly(PrepareSettings):
    """Kills the process that it is sent to."""

    def __reduce__(self) -> tuple:
        return os._exit, (9,)


@pytest.mark.slow
def test_a_killed_process_is_told(tmp_path: Path, scan: Callable) -> None:
    for number in range(6):
        scan(tmp_path / "scans", f"P{number}")
    with pytest.raises(EngineError, match=r"killed, .*--jobs"):
        prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", Deadly(min_tumour_mm2=5.0), jobs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_a_vanished_tumour_stays_a_point_of_the_growth_curve(
    tmp_path: Path, scan: Callable, make_phantom: Callable
) -> None:
    scans = tmp_path / "scans"
    scan(scans, "P1-000", tumour_radius=8.0)
    scan(scans, "P1-001", seg=np.zeros_like(make_phantom("seg")))
    report = prepare_cohort(scans, tmp_path / "c.h5", SMALL)
    assert fates(report) == [("P1/000", "ok"), ("P1/001", "ok")]
    assert "kept for its size" in report.outcomes[1].notes[0]
    with Cohort.open(tmp_path / "c.h5") as cohort:
        series = cohort.size_series("P1", SizeMeasure.AREA_MM2)
        assert series.sizes[0] > 0
        assert series.sizes[1] == 0


def test_a_slice_below_the_least_area_keeps_its_size(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    scans = tmp_path / "scans"
    scan(scans, "P1-000", tumour_radius=3.0)
    scan(scans, "P1-001", tumour_radius=8.0)
    prepare_cohort(scans, tmp_path / "c.h5", PrepareSettings(image_size=64, min_tumour_mm2=100.0))
    with Cohort.open(tmp_path / "c.h5") as cohort:
        first, last = cohort.size_series("P1", SizeMeasure.AREA_MM2).sizes
    assert first == (make_phantom("seg", 3.0)[2] > 0).sum()
    assert last == (make_phantom("seg", 8.0)[2] > 0).sum()


def test_dates_and_radiotherapy(tmp_path: Path, scan: Callable) -> None:
    scans = tmp_path / "scans"
    for name in ("P1-000", "P1-001", "P2-000"):
        scan(scans, name)
    clinical = tmp_path / "clinical.csv"
    clinical.write_text(
        "patient_id,session_id,day,rt_start_day,dose,chemo_start_day,resection_day\n"
        "P1,000,70,30,60 Gy,31,\nP1,001,10,30,,31,-2\nP2,000,4,,,,\nP9,000,1,2,,,\n"
    )
    report = prepare_cohort(scans, tmp_path / "c.h5", SMALL, clinical=clinical, allow_unmatched=True)
    assert report.balance.unmatched == (f"{clinical}, line 5: patient P9: no such patient",)
    with Cohort.open(tmp_path / "c.h5") as cohort:
        assert [(info.id, info.day) for info in cohort.sessions("P1")] == [("001", 10.0), ("000", 70.0)]
        assert cohort.treatment("P1") == Treatment(
            (RadiotherapyCourse(30.0, 72.0, 60.0),), (ChemotherapyCourse(31.0, float("inf")),), (-2.0,)
        )
        assert cohort.treatment("P2") == Treatment()
        assert cohort.dated


def test_two_sessions_on_one_day_fail_and_the_others_go_on(tmp_path: Path, scan: Callable) -> None:
    scans = tmp_path / "scans"
    for name in ("P1-000", "P1-001", "P2-000"):
        scan(scans, name)
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("patient_id,session_id,day\nP1,000,7\nP1,001,7\nP2,000,7\n")
    report = prepare_cohort(scans, tmp_path / "c.h5", SMALL, clinical=clinical)
    assert fates(report) == [("P1/000", "failed"), ("P1/001", "failed"), ("P2/000", "ok")]
    assert "both on day 7" in report.outcomes[0].reason


def test_a_clinical_fault_of_one_patient_does_not_stop_the_others(tmp_path: Path, scan: Callable) -> None:
    scans = tmp_path / "scans"
    for name in ("P1-000", "P2-000"):
        scan(scans, name)
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("patient_id,day,rt_start_day,dose\nP1,7,30,-60\nP2,8,30,60\nP9,1,1,-60\n")
    report = prepare_cohort(scans, tmp_path / "c.h5", SMALL, clinical=clinical, allow_unmatched=True)
    assert fates(report) == [("P1/000", "failed"), ("P2/000", "ok")]
    assert (
        report.outcomes[0].reason == f"{clinical}, line 2: 'dose' is '-60', not a dose above 0 and up to 200 Gy "
        "(as 60, 60 Gy or 6000 cGy); correct it or leave it blank"
    )
    assert report.balance.unmatched == (f"{clinical}, line 4: patient P9: no such patient",)


def test_undated_time_points_are_warned_of(tmp_path: Path, scan: Callable) -> None:
    scans = tmp_path / "scans"
    for name in ("P1-000", "P1-001"):
        scan(scans, name)
    (scans / "clinical.csv").touch()
    report = prepare_cohort(scans, tmp_path / "c.h5", SMALL)
    with Cohort.open(tmp_path / "c.h5") as cohort:
        assert not cohort.dated
    (warning,) = report.warnings
    assert "name it with --clinical" in warning
    assert report.balance.undated == {"P1": ["000", "001"]}


def test_a_contrast_that_one_scan_lacks(tmp_path: Path, scan: Callable) -> None:
    scans = tmp_path / "scans"
    scan(scans, "P1")
    scan(scans, "P2", skip="t2f")
    report = prepare_cohort(scans, tmp_path / "c.h5", SMALL)
    assert report.contrasts == (Contrast.T1N, Contrast.T1C, Contrast.T2W)
    assert "t2f left out" in report.warnings[0]
    asked = prepare_cohort(scans, tmp_path / "asked.h5", PrepareSettings(image_size=64, contrasts=tuple(Contrast)))
    assert fates(asked) == [("P1/000", "ok"), ("P2/000", "failed")]
    assert "3 of 4 contrasts found (no t2f)" in asked.outcomes[1].reason


def test_nothing_usable_writes_nothing(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    scan(tmp_path / "scans", "P1", t1n=np.zeros_like(make_phantom("t1n")))
    with pytest.raises(InputError, match=r"none of 1 scan could .*is 0"):
        prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_unwritable_output_is_found_before_the_work(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path / "scans", "P1")
    (tmp_path / "file").touch()
    told: list[object] = []
    with pytest.raises(InputError, match="cannot be written"):
        prepare_cohort(tmp_path / "scans", tmp_path / "file" / "c.h5", SMALL, on_outcome=told.append)
    assert told == []


@pytest.mark.slow
def test_processes_change_nothing(tmp_path: Path, scan: Callable) -> None:
    for k in range(5):
        scan(tmp_path / "scans", f"P{k}", tumour_radius=5.0 + k, skip="t1c" if k == 3 else "")
    settings = PrepareSettings(image_size=64, contrasts=tuple(Contrast), min_tumour_mm2=5.0)
    reports = [prepare_cohort(tmp_path / "scans", tmp_path / f"{jobs}.h5", settings, jobs=jobs) for jobs in (1, 2)]
    assert reports[0] == reports[1]
    assert reports[0].count(Status.FAILED) == 1
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 100}, "--image-size 100: allowed are 64, 128, 256"),
        ({"min_tumour_mm2": 0.0}, "--min-tumour-mm2 0: must be greater"),
        ({"min_tumour_mm2": float("nan")}, "must be greater"),
        ({"contrasts": ()}, "--contrasts is empty"),
    ],
)
def test_settings_out_of_range(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PrepareSettings(**values)


@pytest.mark.slow
def test_real_lower_grade_gliomas(shared_data: Path, tmp_path: Path) -> None:
    report = prepare_cohort(shared_data / "tcga_lgg", tmp_path / "c.h5", PrepareSettings(image_size=64))
    assert fates(report) == [("TCGA-DU-7294/000", "ok"), ("TCGA-FG-6692/000", "ok")]
    with Cohort.open(tmp_path / "c.h5") as cohort:
        session = cohort.session("TCGA-FG-6692", "000")
        mask = sitk.ReadImage(str(shared_data / "tcga_lgg/TCGA-FG-6692/TCGA-FG-6692-seg.nii.gz"))
        assert session.volume_mm3 == (sitk.GetArrayFromImage(mask) > 0).sum()
        assert set(np.unique(session.labels)) == {0, 1, 2, 3}
        assert session.source["brain_mask"] == BrainMask.NONZERO
        prepared_mm2 = session.brain.sum(axis=(1, 2)) * cohort.pixel_mm**2
        np.testing.assert_allclose(prepared_mm2, session.brain_mm2, rtol=0.05)


@pytest.mark.slow
def test_real_single_slices(shared_data: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(image_size=256, slices=SliceChoice.ALL)
    report = prepare_cohort(shared_data / "seed_layout", tmp_path / "c.h5", settings)
    assert fates(report) == [("00002000/000", "ok"), ("00004000/000", "ok"), ("00044000/000", "ok")]
    with Cohort.open(tmp_path / "c.h5") as cohort:
        assert [one.n_slices for name in cohort.patient_ids() for one in cohort.sessions(name)] == [6, 11, 3]
        session = cohort.session("00044000", "000")
        assert session.source_slice.tolist() == [42, 43, 44]
        assert np.isnan(session.volume_mm3)
        assert cohort.dated
        (info,) = cohort.sessions("00044000")
        assert cohort.size_series("00044000", SizeMeasure.AREA_MM2).sizes.tolist() == [info.area_mm2.max()]
        assert cohort.size_series("00044000", SizeMeasure.VOLUME_MM3).sizes.size == 0
        brain = session.brain[2]
        # Upright: left mirrors right, front does not mirror back
        assert np.mean(brain == brain[:, ::-1]) > np.mean(brain == brain[::-1]) + 0.02


@pytest.mark.slow
def test_real_two_dates(shared_data: Path, tmp_path: Path) -> None:
    report = prepare_cohort(shared_data / "brain_tumor_progression", tmp_path / "c.h5", PrepareSettings(image_size=64))
    assert report.contrasts == (Contrast.T1C,)
    assert report.count(Status.OK) == 12
    with Cohort.open(tmp_path / "c.h5") as cohort:
        for patient in cohort.patient_ids():
            assert cohort.size_series(patient, SizeMeasure.AREA_MM2).sizes.min() > 0
        session = cohort.session("PGBM-001", "ses-1")
        assert session.source["brain_mask"] == BrainMask.HEAD
        assert session.volume_mm3 == 8246 * 5  # sessions.csv counts the voxels; the header's spacing is a placeholder
        covered = [brain[label > 0].mean() for brain, label in zip(session.brain, session.labels, strict=True)]
        assert min(covered) == 1.0
