"""The cohort file gives back what was written, and nothing half written."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tumorcast.data.cohort import Cohort, SizeMeasure, write_cohort
from tumorcast.errors import InputError
from tumorcast.records import ChemotherapyCourse, Contrast, RadiotherapyCourse, Session, Treatment

CONTRASTS = (Contrast.T1C, Contrast.T2F)
SIZE = 64


def make_session(patient: str, name: str, day: float, areas: dict[int, float], **changes: object) -> Session:
    rng = np.random.default_rng(len(name))
    n = len(areas)
    session = Session(
        patient,
        name,
        day,
        CONTRASTS,
        images=rng.uniform(-1, 1, (n, 2, SIZE, SIZE)).astype(np.float32),
        labels=rng.integers(0, 4, (n, SIZE, SIZE)).astype(np.uint8),
        brain=rng.random((n, SIZE, SIZE)) < 0.5,
        area_mm2=np.array(list(areas.values()), np.float64),
        brain_mm2=np.full(n, 9000.0),
        source_slice=np.array(list(areas), np.int64),
        affine=np.diag([-4.0, -4.0, 1.0, 1.0]),
        volume_mm3=float(sum(areas.values())),
        source={"files": {"a.nii.gz": "0"}},
    )
    return replace(session, **changes)


def write(path: Path, *sessions: Session, treatments: dict[str, Treatment] | None = None) -> Path:
    write_cohort(path, sessions, treatments or {}, image_size=SIZE, contrasts=CONTRASTS, config={"a": 1})
    return path


def test_everything_comes_back(tmp_path: Path) -> None:
    first = make_session("A", "one", 40.0, {3: 100.0, 4: 200.0})
    treatment = Treatment((RadiotherapyCourse(5.0, 47.0), RadiotherapyCourse(80.0, 90.0)))
    path = write(tmp_path / "c.h5", first, make_session("A", "zero", -2.5, {3: 90.0}), treatments={"A": treatment})
    with Cohort.open(path) as cohort:
        assert (cohort.image_size, cohort.pixel_mm, cohort.contrasts) == (64, 4.0, CONTRASTS)
        assert cohort.config == {"a": 1}
        assert cohort.patient_ids() == ["A"]
        assert [info.id for info in cohort.sessions("A")] == ["zero", "one"]
        assert cohort.treatment("A") == treatment
        back = cohort.session("A", "one")
        for name, value in vars(first).items():
            np.testing.assert_array_equal(getattr(back, name), value, err_msg=name)
        one = cohort.slice("A", "one", 1)
        np.testing.assert_array_equal(one.image, first.images[1])
        np.testing.assert_array_equal(one.labels, first.labels[1])
        np.testing.assert_array_equal(one.brain, first.brain[1])
        np.testing.assert_array_equal(one.affine, first.affine)
        assert (one.area_mm2, one.brain_mm2, one.source_slice) == (200.0, 9000.0, 4)
        assert one.brain_fraction == 200.0 / 9000.0


def test_treatments_come_back(tmp_path: Path) -> None:
    treatments = {
        "A": Treatment(
            (
                RadiotherapyCourse(5.0, 47.0, 60.0, 30),
                RadiotherapyCourse(80.0, 90.0),
                RadiotherapyCourse(99.0, 120.0, 40.05),
            ),
            (ChemotherapyCourse(5.0, 47.0), ChemotherapyCourse(70.0, math.inf)),
            (-4.0, 75.0),
        ),
        "B": Treatment(resection_days=(1.0,)),
    }
    sessions = [make_session(name, "one", 0.0, {3: 1.0}) for name in ("A", "B", "C")]
    with Cohort.open(write(tmp_path / "c.h5", *sessions, treatments=treatments)) as cohort:
        assert {name: cohort.treatment(name) for name in ("A", "B")} == treatments
        assert cohort.treatment("C") == Treatment()
        assert cohort.size_series("A", SizeMeasure.AREA_MM2).treatment == treatments["A"]


def test_a_file_written_before_knows_no_more_than_dates(tmp_path: Path) -> None:
    full = Treatment((RadiotherapyCourse(5.0, 47.0, 60.0, 30),), (ChemotherapyCourse(5.0, 47.0),), (75.0,))
    path = write(tmp_path / "c.h5", make_session("A", "one", 40.0, {3: 1.0}), treatments={"A": full})
    with h5py.File(path, "a") as file:
        attributes = file["patients/A"].attrs
        for name in set(attributes) - {"radiotherapy_start_days", "radiotherapy_end_days"}:
            del attributes[name]
    with Cohort.open(path) as cohort:
        assert cohort.treatment("A") == Treatment((RadiotherapyCourse(5.0, 47.0),))


def test_a_scan_without_slices(tmp_path: Path) -> None:
    with Cohort.open(write(tmp_path / "c.h5", make_session("A", "one", 0.0, {}))) as cohort:
        assert cohort.sessions("A")[0].n_slices == 0
        assert cohort.session("A", "one").images.shape == (0, 2, SIZE, SIZE)


def series(path: Path, size: SizeMeasure) -> tuple[list[float], list[float]]:
    with Cohort.open(path) as cohort:
        result = cohort.size_series("A", size)
    assert result.size_name == size
    return result.days.tolist(), result.sizes.tolist()


def test_sizes_follow_one_slice_of_the_patient(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.h5",
        make_session("A", "s3", 90.0, {10: 300.0, 11: 500.0, 12: 100.0}),
        make_session("A", "s1", 0.0, {10: 60.0}),  # slice 11 bears less than the least area
        make_session("A", "s2", 30.0, {10: 900.0, 11: 70.0}),
        make_session("A", "s4", 120.0, {}),
        make_session("A", "s0", -9.0, {11: float("nan")}),  # without a mask
    )
    days = [0.0, 30.0, 90.0, 120.0]
    assert series(path, SizeMeasure.AREA_MM2) == (days, [0.0, 70.0, 500.0, 0.0])
    assert series(path, SizeMeasure.VOLUME_MM3) == (days, [60.0, 970.0, 900.0, 0.0])


def test_a_slice_that_was_not_chosen_is_found_among_all_slices(tmp_path: Path) -> None:
    small = make_session("A", "s1", 0.0, {}, source={"slice_area_mm2": [0.0, 12.0, 3.0]})
    path = write(tmp_path / "c.h5", small, make_session("A", "s2", 5.0, {1: 80.0, 2: 50.0}))
    assert series(path, SizeMeasure.AREA_MM2) == ([0.0, 5.0], [12.0, 80.0])


def test_scans_on_different_grids_have_no_common_slice(tmp_path: Path) -> None:
    short = make_session("A", "s1", 0.0, {0: 60.0}, source={"slice_area_mm2": [60.0, 0.0]})
    path = write(tmp_path / "c.h5", short, make_session("A", "s2", 5.0, {7: 80.0}))
    with pytest.raises(InputError, match=r"s1 .*slice 7.*volume_mm3"):
        series(path, SizeMeasure.AREA_MM2)


def test_a_patient_without_tumour_has_sizes_of_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5", make_session("A", "s1", 0.0, {4: 0.0}), make_session("A", "s2", 5.0, {}))
    assert series(path, SizeMeasure.AREA_MM2) == ([0.0, 5.0], [0.0, 0.0])


def test_single_slices_have_areas_and_no_volume(tmp_path: Path) -> None:
    nan = float("nan")
    path = write(
        tmp_path / "c.h5",
        make_session("A", "s1", 0.0, {3: 60.0, 4: 90.0}, volume_mm3=nan),
        make_session("A", "s2", 5.0, {}, volume_mm3=nan, source={"slice_area_mm2": [None, None, None, None, 2.0]}),
        make_session("A", "s3", 9.0, {}, volume_mm3=nan, source={"slice_area_mm2": [None] * 5}),  # without a mask
    )
    assert series(path, SizeMeasure.VOLUME_MM3) == ([], [])
    assert series(path, SizeMeasure.AREA_MM2) == ([0.0, 5.0], [90.0, 2.0])


@pytest.mark.parametrize(("config", "dated"), [({}, True), ({"dated": True}, True), ({"dated": False}, False)])
def test_a_file_says_whether_its_days_are_days(tmp_path: Path, config: dict, dated: bool) -> None:
    path = tmp_path / "c.h5"
    write_cohort(path, [make_session("A", "s", 0.0, {})], {}, image_size=SIZE, contrasts=CONTRASTS, config=config)
    with Cohort.open(path) as cohort:
        assert cohort.dated is dated


def test_same_content_same_hash(tmp_path: Path) -> None:
    session = make_session("A", "s1", 0.0, {4: 9.0})
    hashes = []
    for name, one in (("a", session), ("b", session), ("c", replace(session, day=1.0))):
        with Cohort.open(write(tmp_path / f"{name}.h5", one)) as cohort:
            hashes.append(cohort.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_error_midway_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5", make_session("A", "s1", 0.0, {4: 9.0}))
    before = path.read_bytes()

    def sessions():
        yield make_session("B", "s1", 0.0, {4: 9.0})
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_cohort(path, sessions(), {}, image_size=SIZE, contrasts=CONTRASTS, config={})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "c.h5", tmp_path):
        with pytest.raises(InputError, match=f"{path}: "):
            write(path, make_session("A", "s1", 0.0, {4: 9.0}))


@pytest.mark.parametrize("room", [700, 5000])
def test_a_full_disk(tmp_path: Path, room: int) -> None:
    """In a process of its own: HDF5 ends its process when a write fails, if it is told of it."""
    script = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2]); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from test_cohort import fill_the_disk; from pathlib import Path\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
        "fill_the_disk(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-B", "-c", script, str(tmp_path / "c.h5"), str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "free some space\n")
    assert list(tmp_path.iterdir()) == []


def fill_the_disk(path: Path) -> None:
    try:
        write(path, *(make_session("A", f"s{k}", float(k), {4: 9.0, 5: 8.0}) for k in range(20)))
    except InputError as fault:
        print("free some space" if "free some space" in str(fault) else fault)


def test_a_session_of_another_cohort_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        write(tmp_path / "c.h5", make_session("A", "s1", 0.0, {4: 9.0}, contrasts=(Contrast.T1N, Contrast.T2F)))


def test_files_that_are_no_cohort(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    h5py.File(tmp_path / "other.h5", "w").close()
    with h5py.File(write(tmp_path / "newer.h5", make_session("A", "s", 0.0, {1: 1.0})), "a") as file:
        file.attrs["format_version"] = 99
    for name, message in (
        ("none.h5", "no such file"),
        ("text.h5", "is no HDF5 file"),
        ("other.h5", "not a cohort.*; make it with `tumorcast prepare`"),
        ("newer.h5", "found tumorcast-cohort 99.*; make it with `tumorcast prepare`"),
    ):
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            Cohort.open(tmp_path / name)


def test_unknown_names(tmp_path: Path) -> None:
    with Cohort.open(write(tmp_path / "c.h5", make_session("A", "s1", 0.0, {4: 9.0}))) as cohort:
        with pytest.raises(InputError, match="no patient B"):
            cohort.sessions("B")
        with pytest.raises(InputError, match="session s9; it has s1"):
            cohort.session("A", "s9")


def test_before_the_last_scan_nothing_of_it_can_be_read(blob_cohort: Path) -> None:
    with Cohort.open(blob_cohort) as whole:
        known = whole.before_last_scan()
        assert [info.id for info in known.sessions("A")] == ["000", "001"]
        assert known.size_series("A", SizeMeasure.VOLUME_MM3).days.tolist() == [0.0, 60.0]
        assert known.slice("A", "001", 0).area_mm2 == whole.slice("A", "001", 0).area_mm2
        for reading in (
            lambda: known.slice("A", "002", 0),
            lambda: known.session("A", "002"),
            lambda: known.source("A", "002"),
        ):
            with pytest.raises(ValueError, match="A, session 002"):
                reading()
        assert known.sessions("C") == []  # it has one scan
        assert [info.id for info in known.before_last_scan().sessions("A")] == ["000"]
        assert known.before_last_scan().before_last_scan().sessions("A") == []
        assert len(whole.sessions("A")) == 3
