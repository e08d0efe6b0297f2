"""A damaged cohort file is refused by one message that names it, wherever the damage is, and never by h5py's errors."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tumorcast.data.cohort import Cohort, SizeMeasure, deformed, write_cohort
from tumorcast.data.imaging.geometry import Grid
from tumorcast.data.imaging.transforms import Displacement
from tumorcast.errors import InputError
from tumorcast.records import Contrast, Session, Treatment

SCAN = "patients/A/001"
LATTICE = Grid((2, 2, 2), (64.0,) * 3, (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def path(blob: Callable[..., Session], tmp_path: Path) -> Path:
    """A patient of two scans, the second bent onto the first."""
    moved = deformed(blob("A", "001", 60.0, 6.0), Displacement(np.ones((2, 2, 2, 3), np.float32), LATTICE))
    sessions = [blob("A", "000", 0.0, 4.0), moved]
    write_cohort(tmp_path / "c.h5", sessions, {"A": Treatment()}, image_size=64, contrasts=tuple(Contrast), config={})
    return tmp_path / "c.h5"


def read_all(path: Path) -> None:
    """Everything that a cohort file is asked for."""
    with Cohort.open(path) as cohort:
        assert cohort.config == {}
        for patient_id in cohort.patient_ids():
            cohort.treatment(patient_id)
            for info in cohort.sessions(patient_id):
                cohort.session(patient_id, info.id)
                cohort.slice(patient_id, info.id, 0)
            cohort.size_series(patient_id, SizeMeasure.AREA_MM2)


def drop(place: str) -> Callable[[h5py.File], None]:
    """Remove a group, a data set or, as PLACE@NAME, an attribute."""

    def damage(file: h5py.File) -> None:
        group, _, name = place.partition("@")
        if name:
            del file[group].attrs[name]
        else:
            del file[place]

    return damage


def put(place: str, value: object) -> Callable[[h5py.File], None]:
    """Put another data set or, as PLACE@NAME, another attribute in its place."""

    def damage(file: h5py.File) -> None:
        drop(place)(file)
        group, _, name = place.partition("@")
        if name:
            file[group].attrs[name] = value
        else:
            file[place] = value

    return damage


def spoil(file: h5py.File) -> None:
    """Bytes that no filter can unpack, in the chunk of one slice."""
    file[f"{SCAN}/images"].id.write_direct_chunk((0, 0, 0, 0), b"\1" * 100)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (drop("patients"), "its header .*patients"),
        (drop("/@contrasts"), "its header .*contrasts"),
        (put("/@contrasts", ["t1c", "pet"]), "its header .*'pet'"),
        (put("/@format_version", "one"), "its header .*'one'"),
        (put("/@config", "{"), "its config .*property"),
        (put("patients/A", 3.0), "A is no group"),
        (put(SCAN, 3.0), "001 is no group"),
        (drop(f"{SCAN}/labels"), "session 001 .*labels"),
        (drop(f"{SCAN}/source_slice"), "session 001 .*source_slice"),
        (drop(f"{SCAN}@day"), "session 001 .*no day"),
        (put(f"{SCAN}/images", np.zeros((3, 4, 64, 32), "f4")), "images .*3 x 4 x 64 x 32"),
        (put(f"{SCAN}/brain", np.zeros((2, 64, 64), bool)), "brain .*2 x 64 x 64"),
        (put(f"{SCAN}/area_mm2", 5.0), "area_mm2 is one value"),
        (put(f"{SCAN}@volume_mm3", "much"), "A .*string to float"),
        (put(f"{SCAN}@source", "[1"), "source of A, session 001"),
        (drop(f"{SCAN}/displacement@grid"), "displacement of A.*grid"),
        (drop("patients/A@radiotherapy_end_days"), "treatment of A.*_end_days"),
        (spoil, "session 001 .*filter"),
    ],
)
def test_damage_is_told_with_its_place(path: Path, damage: Callable[[h5py.File], None], told: str) -> None:
    read_all(path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=told) as refused:
        read_all(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert message.endswith("the file is damaged: copy it again, or make it with `tumorcast prepare`")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="`tumorcast prepare"):
        read_all(path)
