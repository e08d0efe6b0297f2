"""A patient's scans are brought into one space, and everything of a scan follows."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data.cohort import Cohort
from tumorcast.data.imaging import bias_field as bias
from tumorcast.data.imaging import deformation
from tumorcast.data.imaging.geometry import Grid, Interpolation, PreparedGrid
from tumorcast.data.imaging.transforms import resample
from tumorcast.data.native import native_image
from tumorcast.data.patient_space import PatientSpace
from tumorcast.data.prepare import (
    CohortReport,
    PrepareSettings,
    Register,
    SliceChoice,
    Task,
    prepare_cohort,
    prepare_session,
)
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.errors import InputError, StorageError, UsageError
from tumorcast.records import Contrast, Session

RIGID = PrepareSettings(image_size=64, register=Register.RIGID, slices=SliceChoice.ALL)


@pytest.fixture(scope="module")
def registered(moved_cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[CohortReport, Path]:
    folder = tmp_path_factory.mktemp("registered")
    return prepare_cohort(moved_cohort.folder, folder / "c.h5", RIGID), folder / "c.h5"


@pytest.mark.slow
def test_simulated_scans_are_brought_together(moved_cohort, registered: tuple[CohortReport, Path]) -> None:
    """Each contrast's way from the cohort's space is known; what is stored is off by less than half a voxel."""
    report, path = registered
    assert [(str(one.status), one.reason) for one in report.outcomes] == [("ok", "")] * 2
    home = ~moved_cohort.truth["000", "t1c"]  # the space is that of the first scan's T1c
    with Cohort.open(path) as cohort:
        for info in cohort.sessions(moved_cohort.patient_id):
            session = cohort.session(moved_cohort.patient_id, info.id)
            points = brain_points(session)
            for contrast in Contrast:
                image = native_image(session.source, contrast)
                true = moved_cohort.truth[info.id, str(contrast)] @ home
                off = (~true @ image.from_cohort).distances_mm(points)
                assert off.max() < 0.5 * min(image.grid.spacing), (info.id, contrast)
                file = f"{moved_cohort.patient_id}-{info.id}"
                own = Grid.of(sitk.ReadImage(str(moved_cohort.folder / file / f"{file}-{contrast}.nii.gz")))
                assert image.grid.size == own.size and image.grid.distance_mm(own) < 1e-4


def brain_points(session: Session) -> np.ndarray:
    z, y, x = np.nonzero(session.brain)
    places = np.c_[x, y, session.source_slice[z], np.ones(len(z))] @ session.affine.T
    return places[::11, :3]


@pytest.mark.slow
def test_the_mask_and_the_grid_follow(moved_cohort, registered: tuple[CohortReport, Path]) -> None:
    """Each scan's labels lie where the unmoved mask lies in the space; the volume is that of the scan's own voxels."""
    _, path = registered
    home = moved_cohort.truth["000", "t1c"]
    with Cohort.open(path) as cohort:
        grids = [cohort.source(moved_cohort.patient_id, name)["grid"] for name in ("000", "001")]
        assert grids[0] == grids[1]
        for name in ("000", "001"):
            session = cohort.session(moved_cohort.patient_id, name)
            file = f"{moved_cohort.patient_id}-{name}"
            still = sitk.ReadImage(str(moved_cohort.still / file / f"{file}-seg.nii.gz")) > 0
            shared = Grid.from_dict(grids[0]).canonical()
            way = {"interpolation": Interpolation.NEAREST}
            wanted = sitk.GetArrayFromImage(resample(still, shared, ~home, **way)) > 0
            plane = PreparedGrid.over(shared, 64)
            true = plane.sample(wanted[session.source_slice]) >= 0.5
            mine = session.labels > 0
            assert 2 * (true & mine).sum() / (true.sum() + mine.sum()) > 0.85
            own = sitk.ReadImage(str(moved_cohort.folder / file / f"{file}-seg.nii.gz"))
            volume = np.prod(own.GetSpacing()) * (sitk.GetArrayFromImage(own) > 0).sum()
            assert session.volume_mm3 == pytest.approx(volume, rel=1e-5)


def test_the_contrasts_of_a_scan_agree(moved_cohort, registered: tuple[CohortReport, Path]) -> None:
    """The slices are those that the true transforms give; two pixels further they would not be."""
    _, path = registered
    home = ~moved_cohort.truth["000", "t1c"]
    file = f"{moved_cohort.patient_id}-001"
    with Cohort.open(path) as cohort:
        session = cohort.session(moved_cohort.patient_id, "001")
    shared = Grid.from_dict(session.source["grid"]).canonical()
    for place, contrast in enumerate(session.contrasts):
        own = sitk.ReadImage(str(moved_cohort.folder / file / f"{file}-{contrast}.nii.gz"), sitk.sitkFloat32)
        true = sitk.GetArrayFromImage(resample(own, shared, moved_cohort.truth["001", str(contrast)] @ home))
        wanted = PreparedGrid.over(shared, 64).sample(true[session.source_slice])
        inside, found = session.brain & (session.labels == 0), session.images[:, place]
        assert np.corrcoef(wanted[inside], found[inside])[0, 1] > 0.98
        assert np.corrcoef(np.roll(wanted, 2, axis=-1)[inside], found[inside])[0, 1] < 0.8


def test_scans_that_lie_on_each_other_are_left_alone(phantom_scan: Callable, tmp_path: Path) -> None:
    """Of what was found nothing is used, as it is less than half a voxel: no sharpness is lost."""
    for name in ("P1-000", "P1-001"):
        phantom_scan(tmp_path, name)
    settings = PrepareSettings(image_size=64, slices=SliceChoice.ALL)
    space = PatientSpace(RIGID)
    for source in find_scans(tmp_path, Layout.BRATS).sessions:
        plain, placed = prepare_session(source, settings), prepare_session(source, RIGID, space)
        for name in ("images", "labels", "brain", "area_mm2", "affine"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(placed, name))
        told = placed.source["registration"]["alignments"]
        assert [one["used"] for one in told] == ["headers"] * int(source.session_id)
        assert all(one["nmi_after"] == one["nmi_before"] and not one["flags"] for one in told)


def test_a_first_scan_that_cannot_be_read_is_no_anchor(phantom_scan: Callable, tmp_path: Path) -> None:
    for name in ("P1-000", "P1-001", "P1-002"):
        phantom_scan(tmp_path / "scans", name)
    (tmp_path / "scans/P1-000/P1-000-t1c.nii.gz").write_bytes(b"\x1f\x8b damaged")
    report = prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", RIGID)
    assert [str(one.status) for one in report.outcomes] == ["failed", "ok", "ok"]
    with Cohort.open(tmp_path / "c.h5") as cohort:
        assert [cohort.source("P1", name)["registration"]["anchor"] for name in ("001", "002")] == ["001", "001"]


def test_a_mask_belongs_to_the_image_on_whose_grid_it_lies(phantom_scan: Callable, tmp_path: Path) -> None:
    """The mask is drawn on T2-FLAIR, whose voxels are others than T1c's: it follows T2-FLAIR's way."""
    folder = phantom_scan(tmp_path, "P1-000", kinds=("t1c", "t2f"))
    places = {kind: folder / f"P1-000-{kind}.nii.gz" for kind in ("t1c", "t2f", "seg")}
    images = {kind: sitk.ReadImage(str(path)) for kind, path in places.items()}
    for kind in ("t2f", "seg"):
        sitk.WriteImage(images[kind][:, :, 2:-2], str(places[kind]))
    (source,) = find_scans(tmp_path, Layout.BRATS).sessions
    session = prepare_session(source, RIGID, PatientSpace(RIGID))
    z, y, x = np.nonzero(session.labels)
    centre = (session.affine @ [x.mean(), y.mean(), session.source_slice[z].mean(), 1.0])[:3]
    voxels = np.argwhere(sitk.GetArrayFromImage(images["seg"]) > 0).mean(axis=0)[::-1]
    np.testing.assert_allclose(centre, (Grid.of(images["seg"]).affine() @ [*voxels, 1.0])[:3], atol=1.5)
    sitk.WriteImage(images["seg"][1:, :, :], str(places["seg"]))
    with pytest.raises(InputError, match=r"P1-000-seg.nii.gz: .*t1c, t2f"):
        prepare_session(source, RIGID, PatientSpace(RIGID))


def test_a_flat_mask_is_refused_by_name(phantom_scan: Callable, tmp_path: Path) -> None:
    mask = phantom_scan(tmp_path, "P1-000") / "P1-000-seg.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(mask))[:, :, 20], str(mask))
    (source,) = find_scans(tmp_path, Layout.BRATS).sessions
    with pytest.raises(InputError, match=r"P1-000-seg.nii.gz: a 2D"):
        prepare_session(source, RIGID, PatientSpace(RIGID))


def test_a_scan_without_a_mask_is_registered_too(phantom_scan: Callable, tmp_path: Path) -> None:
    folder = phantom_scan(tmp_path / "scans", "P1-000")
    (folder / "P1-000-seg.nii.gz").unlink()
    prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", RIGID)
    with Cohort.open(tmp_path / "c.h5") as cohort:
        assert math.isnan(cohort.sessions("P1")[0].volume_mm3)
        assert "tumour_native_mm3" not in cohort.source("P1", "000")["registration"]


def test_single_slices_cannot_be_registered(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slices, .*--register"):
        prepare_cohort(shared_data / "seed_layout", tmp_path / "c.h5", RIGID)


@pytest.mark.slow
def test_threads_change_no_byte(
    phantom_scan: Callable, turned: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps with one thread and with four; the second scan is moved, and its tumour has grown."""
    monkeypatch.setattr(bias, "LEVELS", (2,))
    monkeypatch.setattr(deformation, "LEVELS", ((8.0, 10), (4.0, 10)))
    phantom_scan(tmp_path / "scans", "P1-000")
    phantom_scan(tmp_path / "scans", "P1-001", tumour_mm=18.0, transform=turned(6.0, 7.0, np.zeros(3), 1))
    settings = PrepareSettings(image_size=64, register=Register.RIGID, deformable=True, n4=True)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        for count in (1, 4):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
            prepare_cohort(tmp_path / "scans", tmp_path / f"{count}.h5", settings)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "4.h5").read_bytes()


def test_a_patients_scans_are_one_piece_of_work() -> None:
    scans = [SourceSession(patient, str(day), float(day), {}, None) for patient in "AB" for day in (0, 1)]
    assert [len(piece) for piece in Task(PrepareSettings(image_size=64)).pieces(scans)] == [1, 1, 1, 1]
    assert [len(piece) for piece in Task(RIGID).pieces(scans)] == [2, 2]


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--deformable: .*--register"):
        PrepareSettings(image_size=64, deformable=True)
    with pytest.raises(UsageError, match=r"--qc: .*--register"):
        prepare_cohort(tmp_path, tmp_path / "c.h5", PrepareSettings(image_size=64), quality=tmp_path / "qc")


def test_a_folder_that_cannot_be_made_is_told_before_the_work(phantom_scan: Callable, tmp_path: Path) -> None:
    phantom_scan(tmp_path / "scans", "P1-000")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/qc: .*--qc"):
        prepare_cohort(tmp_path / "scans", tmp_path / "c.h5", RIGID, quality=tmp_path / "file" / "qc")
