"""BIDS data sets, written by nibabel: which files are taken, on which days, and that voxels keep their places."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data.imaging.geometry import Grid, Interpolation, to_source_grid
from tumorcast.data.prepare import PrepareSettings, SliceChoice, prepare_session
from tumorcast.data.readers.bids import find_bids
from tumorcast.data.readers.clinical import date_sessions, read_clinical
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.readers.volumes import read_session
from tumorcast.errors import InputError
from tumorcast.records import Contrast

IMAGES = ("ce-gadolinium_T1w", "T1w", "T2w", "FLAIR")


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.nii.gz").touch()


def raw_session(root: Path, subject: str, session: str, images: tuple[str, ...] = IMAGES) -> None:
    folder = root / f"sub-{subject}" / f"ses-{session}" / "anat"
    touch(folder, *(f"sub-{subject}_ses-{session}_{name}" for name in images))


def derived(root: Path, pipeline: str, *names: str, subject: str = "01", session: str = "1") -> None:
    folder = root / "derivatives" / pipeline / f"sub-{subject}" / f"ses-{session}" / "anat"
    touch(folder, *(f"sub-{subject}_ses-{session}_{name}" for name in names))


def sessions_table(root: Path, text: str, subject: str = "01") -> None:
    (root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv").write_text(text.replace(" ", "\t"))


def mask_name(root: Path) -> str | None:
    (session,) = find_bids(root).sessions
    return session.mask and session.mask.name.removeprefix("sub-01_ses-1_").removesuffix(".nii.gz")


def test_contrasts_and_mask_of_each_session(tmp_path: Path) -> None:
    for session in ("10", "9"):
        raw_session(tmp_path, "01", session)
    derived(tmp_path, "nnunet", "dseg", session="9")
    first, second = find_bids(tmp_path).sessions
    assert [(one.patient_id, one.session_id, one.day) for one in (first, second)] == [
        ("sub-01", "ses-9", 0.0),
        ("sub-01", "ses-10", 1.0),
    ]
    named = {contrast: path.name for contrast, path in first.images.items()}
    assert named == {
        Contrast.T1N: "sub-01_ses-9_T1w.nii.gz",
        Contrast.T1C: "sub-01_ses-9_ce-gadolinium_T1w.nii.gz",
        Contrast.T2W: "sub-01_ses-9_T2w.nii.gz",
        Contrast.T2F: "sub-01_ses-9_FLAIR.nii.gz",
    }
    assert first.mask is not None and second.mask is None
    assert date_sessions(find_scans(tmp_path).sessions, None).undated == {"sub-01"}


def test_a_data_set_without_sessions(tmp_path: Path) -> None:
    touch(tmp_path / "sub-a1" / "anat", "sub-a1_ce-gd_T1w", "sub-a1_dseg", "sub-a1_T2starw", "sub-b_T1w")
    (session,) = find_scans(tmp_path).sessions
    assert (session.patient_id, session.session_id, session.day) == ("sub-a1", "000", 0.0)
    assert list(session.images) == [Contrast.T1C]
    assert session.mask == tmp_path / "sub-a1" / "anat" / "sub-a1_dseg.nii.gz"


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("T1w", "acq-fast_T1w"), "T1w"),
        (("run-1_T1w", "run-2_T1w"), "run-2_T1w"),
        (("part-phase_T1w", "acq-fast_run-01_T1w"), "acq-fast_run-01_T1w"),
    ],
)
def test_of_several_images_the_plainest_and_last_is_meant(tmp_path: Path, names: tuple[str, ...], taken: str) -> None:
    raw_session(tmp_path, "01", "1", names)
    (session,) = find_bids(tmp_path).sessions
    assert session.images[Contrast.T1N].name == f"sub-01_ses-1_{taken}.nii.gz"


@pytest.mark.parametrize(
    ("pipeline", "names", "taken"),
    [
        ("any", ("dseg", "desc-brain_mask", "label-GM_probseg"), "dseg"),
        ("any", ("label-tumor_mask", "desc-brain_mask"), "label-tumor_mask"),
        ("any", ("label-L_mask",), "label-L_mask"),
        ("any", ("label-tumor_mask", "dseg"), "dseg"),
        ("any", ("mask",), None),
        ("any", ("label-tumor_probseg",), None),
        ("any", ("desc-aparcaseg_dseg", "atlas-x_dseg", "hemi-L_dseg"), None),
        ("fmriprep-24", ("dseg", "desc-brain_mask"), None),
        ("fastsurfer", ("desc-tumour_dseg",), "desc-tumour_dseg"),
    ],
)
def test_which_mask_is_a_tumour(tmp_path: Path, pipeline: str, names: tuple[str, ...], taken: str | None) -> None:
    raw_session(tmp_path, "01", "1")
    derived(tmp_path, pipeline, *names)
    assert mask_name(tmp_path) == taken


def test_a_pipeline_that_is_named_is_believed(tmp_path: Path) -> None:
    raw_session(tmp_path, "01", "1")
    derived(tmp_path, "one", "dseg")
    derived(tmp_path, "two", "mask", "desc-brain_mask")
    derived(tmp_path, "three", "dseg")
    with pytest.raises(InputError, match=r"\(one, three\).*--derivatives"):
        find_scans(tmp_path)
    (session,) = find_scans(tmp_path / "derivatives" / "two").sessions
    assert session.mask is not None and session.mask.name == "sub-01_ses-1_mask.nii.gz"
    assert session.images[Contrast.T1C].is_relative_to(tmp_path / "sub-01")


def test_two_masks_of_one_scan_refuse_that_scan_alone(tmp_path: Path) -> None:
    for session in ("1", "2"):
        raw_session(tmp_path, "01", session)
    derived(tmp_path, "any", "label-a_dseg", "label-b_dseg")
    derived(tmp_path, "any", "dseg", session="2")
    refused = date_sessions(find_scans(tmp_path).sessions, None).refused
    assert list(refused) == [("sub-01", "ses-1")]
    assert "label-b_dseg.nii.gz is a tumour mask of the same scan; keep one" in refused["sub-01", "ses-1"]


def test_a_mask_in_another_space_goes_with_the_images_of_that_space(tmp_path: Path) -> None:
    raw_session(tmp_path, "01", "1")
    derived(tmp_path, "atlas", "space-SRI24_dseg", "space-SRI24_ce-gd_T1w", "space-SRI24_FLAIR", "space-MNI_T1w")
    (session,) = find_bids(tmp_path).sessions
    assert [path.name for path in session.images.values()] == [
        "sub-01_ses-1_space-SRI24_ce-gd_T1w.nii.gz",
        "sub-01_ses-1_space-SRI24_FLAIR.nii.gz",
    ]


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("session_id acq_time\nses-1 2009-06-15T23:45:30\nses-2 2009-09-13T01:00:00\n", [0.0, 90.0]),
        ("session_id acq_time\n1 1877-06-15\n2 1877-06-14T10:00:00.5Z\n", [1.0, 0.0]),
        ("session_id acq_time days\nses-1 n/a 12.5\nses-2 2009-09-13 40\n", [12.5, 40.0]),
    ],
)
def test_days_of_the_sessions_table(tmp_path: Path, text: str, days: list[float]) -> None:
    for session in ("1", "2"):
        raw_session(tmp_path, "01", session)
    sessions_table(tmp_path, text)
    found = find_scans(tmp_path).sessions
    assert [session.day for session in found] == days
    assert date_sessions(found, None).undated == frozenset()


def test_days_of_the_tables_of_scans(tmp_path: Path) -> None:
    for session, day in (("1", "01"), ("2", "15")):
        raw_session(tmp_path, "01", session)
        text = f"filename\tacq_time\nfunc/x.nii.gz\t1900-01-01\nanat/x.nii.gz\t2020-03-{day}T08:00:00\n"
        (tmp_path / f"sub-01/ses-{session}/sub-01_ses-{session}_scans.tsv").write_text(text)
    assert [session.day for session in find_bids(tmp_path).sessions] == [0.0, 14.0]


@pytest.mark.parametrize(
    ("text", "refused", "reason"),
    [
        ("session_id acq_time\nses-1 2009-06-15\nses-2 n/a\n", {"ses-2"}, "other sessions are dated, but not this one"),
        (
            "session_id acq_time days\nses-1 n/a 4\nses-2 2009-06-15 n/a\n",
            {"ses-1", "ses-2"},
            "some sessions have a day",
        ),
        ("session_id acq_time\nses-1 15/06/2009\nses-2 n/a\n", {"ses-1", "ses-2"}, "line 2: 'acq_time' is no date"),
        ("id\nses-1\n", {"ses-1", "ses-2"}, "no column 'session_id'"),
    ],
)
def test_dates_that_cannot_be_told_refuse_the_subject_alone(
    tmp_path: Path, text: str, refused: set[str], reason: str
) -> None:
    for subject, session in (("01", "1"), ("01", "2"), ("02", "1")):
        raw_session(tmp_path, subject, session)
    sessions_table(tmp_path, text)
    found = date_sessions(find_scans(tmp_path).sessions, None).refused
    assert set(found) == {("sub-01", session) for session in refused}
    assert all(reason in told and "2009" not in told for told in found.values())
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("patient_id,session_id,day\nsub-01,1,3\nsub-01,ses-2,5\n")
    assert date_sessions(find_scans(tmp_path).sessions, read_clinical(clinical)).refused == {}


def oblique() -> np.ndarray:
    """An affine of 1 x 1 x 2.5 mm voxels whose axes are swapped, turned and tilted."""
    turn, tilt = 0.3, 0.1
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-1.0, 1.0, 2.5])
    affine[:3, 3] = 30.0, 12.0, -7.0
    return affine


def test_labels_written_by_nibabel_come_home_exactly(tmp_path: Path, make_phantom) -> None:
    folder = tmp_path / "sub-1" / "anat"
    folder.mkdir(parents=True)
    for kind, name in (("t1c", "ce-gd_T1w"), ("seg", "dseg")):
        nibabel.save(nibabel.Nifti1Image(make_phantom(kind).T, oblique()), folder / f"sub-1_{name}.nii.gz")
    (source,) = find_scans(tmp_path).sessions
    session = prepare_session(source, PrepareSettings(image_size=256, slices=SliceChoice.ALL))
    grid = Grid.from_dict(session.source["grid"])
    np.testing.assert_allclose(grid.affine(), oblique(), atol=1e-5)
    home = to_source_grid(session.labels, session.source_slice, grid, interpolation=Interpolation.NEAREST)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(home), make_phantom("seg"))


def test_a_real_scan_through_nibabel_keeps_voxels_and_affine(tmp_path: Path, shared_data: Path) -> None:
    folder = tmp_path / "sub-1" / "anat"
    folder.mkdir(parents=True)
    stem = shared_data / "tcga_lgg" / "TCGA-DU-7294" / "TCGA-DU-7294"
    original = {kind: nibabel.load(f"{stem}-{kind}.nii.gz") for kind in ("t2f", "seg")}
    for kind, name in (("t2f", "FLAIR"), ("seg", "dseg")):
        array = np.asanyarray(original[kind].dataobj)
        nibabel.save(nibabel.Nifti1Image(array, original[kind].affine), folder / f"sub-1_{name}.nii")
    (source,) = find_scans(tmp_path, Layout.BIDS).sessions
    volume = read_session(source, (Contrast.T2F,))
    np.testing.assert_array_equal(volume.grid.affine(), original["t2f"].affine)
    upright = nibabel.as_closest_canonical(original["seg"])  # RAS; ours is LPS
    labels = np.asanyarray(upright.dataobj)[::-1, ::-1].T
    np.testing.assert_array_equal(volume.labels > 0, labels > 0)
