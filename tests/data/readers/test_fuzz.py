"""Damaged, hostile and senseless files: every reader either reads or raises InputError, within bounded memory.

TUMORCAST_FUZZ=10000 in the environment makes so many rounds of each test instead of a few.
"""

import gzip
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tumorcast.data.inventory import take_inventory
from tumorcast.data.readers.clinical import date_sessions, read_clinical
from tumorcast.data.readers.files import LARGEST_VOXELS
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.data.readers.volumes import read_image, read_session
from tumorcast.errors import InputError

ROUNDS = int(os.environ.get("TUMORCAST_FUZZ", "40"))
MOST_GROWTH_KB = 200 * 1024
SPECIAL = (
    b"\0",
    b"\x7f\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff",
    struct.pack("<f", float("nan")),
    struct.pack("<q", 2**62),
)


def damaged(content: bytes, rng: np.random.Generator, *, header: int) -> bytes:
    """The content with one or several faults; half of them lie in its first `header` bytes."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        reach = min(header, len(data)) if rng.random() < 0.5 else len(data)
        at = int(rng.integers(0, max(reach, 1)))
        match rng.integers(0, 6):
            case 0:
                del data[at:]
            case 1:
                data[at : at + 1] = rng.bytes(1)
            case 2:
                data[at : at + 16] = rng.bytes(16)
            case 3:
                word = SPECIAL[rng.integers(0, len(SPECIAL))]
                data[at : at + len(word)] = word
            case 4:
                data[at:at] = rng.bytes(int(rng.integers(1, 40)))
            case _:
                del data[at : at + int(rng.integers(1, 40))]
    return bytes(data)


def reads_or_refuses(read: Callable[[], object]) -> bool:
    """Whether it could be read; anything but an InputError goes up."""
    try:
        read()
    except InputError as refusal:
        assert str(refusal)
        return False
    return True


@pytest.fixture(autouse=True)
def memory_is_bounded():
    """A header that asks for terabytes must not be believed: peak memory grows by little."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KB


def read_all(folder: Path, layout: Layout) -> None:
    """Every scan found, read as prepare reads it; what comes of it is finite."""
    for session in find_scans(folder, layout).sessions:
        volume = read_session(session, tuple(session.images))
        assert np.isfinite(volume.grid.affine()).all()
        assert all(np.isfinite(image).all() for image in volume.images.values())


def volume(dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, (12, 10, 6)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_damaged_nifti(tmp_path: Path, dtype: type, end: str) -> None:
    nibabel.save(nibabel.Nifti1Image(volume(dtype), np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / "sound.nii")
    sound, rng = (tmp_path / "sound.nii").read_bytes(), np.random.default_rng(1)
    path, outcomes = tmp_path / f"P1-t1c{end}", set()
    for _ in range(ROUNDS):
        content = damaged(sound, rng, header=352)
        if end == ".nii.gz":
            packed = gzip.compress(content, 1)
            content = packed if rng.random() < 0.7 else damaged(gzip.compress(sound, 1), rng, header=20)
        path.write_bytes(content)
        outcomes.add(reads_or_refuses(lambda: read_all(tmp_path, Layout.BRATS)))
        reads_or_refuses(lambda: take_inventory(tmp_path, Layout.BRATS))
    assert outcomes == {True, False}  # some damage does no harm, and some is noticed


@pytest.mark.parametrize("end", [".nii", ".nii.gz", ".dcm", ""])
def test_random_bytes(tmp_path: Path, end: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(ROUNDS):
        content = rng.bytes(int(rng.integers(0, 2000)))
        (tmp_path / f"a{end}").write_bytes(gzip.compress(content) if end.endswith("gz") else content)
        assert not reads_or_refuses(lambda: read_image(tmp_path / f"a{end}"))


def header(dims: tuple[int, ...], *, offset: float = 352.0, code: int = 16, bits: int = 32) -> bytes:
    """The header of a NIfTI-1 file."""
    data = bytearray(352)
    struct.pack_into("<i", data, 0, 348)
    struct.pack_into("<8h", data, 40, len(dims), *dims, *(1,) * (7 - len(dims)))
    struct.pack_into("<hh", data, 70, code, bits)
    struct.pack_into("<8f", data, 76, *(1.0,) * 8)
    struct.pack_into("<f", data, 108, offset)
    data[344:348] = b"n+1\0"
    return bytes(data)


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header((30_000, 30_000, 30_000)), "30000x30000x30000"),
        (header((32_767,) * 7), "asks for 32767x"),
        (header((800, 800, 800)), r"\d+ of 2048000352 bytes"),
        (header((8, 8, 8), offset=3e38), "voxels after 3"),
        (header((8, 8, 8), offset=-4.0), "not a NIfTI file"),
        (header((8, 8, -8)), "not a NIfTI file"),
        (header((8, 8, 8), code=1, bits=1), "type 1 with 1 bits"),
        (header((8, 8, 8), code=32, bits=64), "type 32 with 64 bits"),
        (header((8, 8, 8), code=16, bits=64), "type 16 with 64 bits"),
        (header((8, 8, 8)) + b"\0" * (4 * 512 + 2**21), "after its 2400 bytes"),
    ],
)
def test_headers_that_ask_for_what_is_not_there(tmp_path: Path, end: str, content: bytes, reason: str) -> None:
    path = tmp_path / f"a{end}"
    path.write_bytes(gzip.compress(content) if end == ".nii.gz" else content)
    with pytest.raises(InputError, match=rf"a{end}: .*{reason}"):
        read_image(path)


def test_a_small_file_that_unpacks_to_very_much(tmp_path: Path) -> None:
    """2 GiB of zeros behind a header of 8 x 8 x 8 voxels, in some megabytes: it is not unpacked to its end."""
    packed = gzip.compress(header((8, 8, 8))) + gzip.compress(b"\0" * 2**20) * 2048
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(InputError, match="after its 2400 bytes"):
        read_image(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(packed[: 2**16]))
    with pytest.raises(InputError, match="not a NIfTI file"):
        read_image(tmp_path / "b.nii.gz")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scl_slope", np.nan),
        ("scl_slope", np.inf),
        ("scl_inter", np.inf),
        ("scl_slope", 1e38),
        ("pixdim", [1, np.nan, 1, 1, 1, 1, 1, 1]),
        ("pixdim", [1, 1e-30, 1, 1, 1, 1, 1, 1]),
        ("pixdim", [1, 1e30, 1, 1, 1, 1, 1, 1]),
        ("qoffset_x", np.nan),
        ("srow_x", [np.nan, 0, 0, 0]),
        ("srow_x", [0, 0, 0, np.inf]),
        ("srow_x", [0, 0, 0, 0]),
        ("srow_y", [1, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("form", ["qform", "sform"])
def test_headers_with_numbers_that_are_none(tmp_path: Path, field: str, value: object, form: str) -> None:
    image = nibabel.Nifti1Image(volume(), np.diag([-1.0, -1.0, 2.0, 1.0]))
    getattr(image, f"set_{form}")(image.affine, code=1)
    getattr(image, f"set_{'sform' if form == 'qform' else 'qform'}")(None, code=0)
    data = bytearray(image.header.binaryblock + b"\0" * 4 + volume().T.tobytes())
    head = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    head[field], head["vox_offset"], head["magic"] = value, 352, b"n+1"
    (tmp_path / "P1-t1c.nii").write_bytes(head.binaryblock + bytes(data[348:]))

    reads_or_refuses(lambda: read_all(tmp_path, Layout.BRATS))


def test_damaged_dicom(tmp_path: Path, dicom_series: Callable) -> None:
    folder = dicom_series(tmp_path / "A" / "1", volume().T, "T1 post")
    victim, rng = sorted(folder.iterdir())[3], np.random.default_rng(3)
    sound = victim.read_bytes()
    for _ in range(ROUNDS):
        victim.write_bytes(damaged(sound, rng, header=800))
        reads_or_refuses(lambda: take_inventory(tmp_path, Layout.DICOM))
        reads_or_refuses(lambda: read_all(tmp_path, Layout.DICOM))


CELLS = (
    "A",
    "",
    "1",
    "-5e400",
    "nan",
    "../../..",
    "x" * 5000,
    "a\0b",
    "\udcff",
    "é",
    '"',
    "1:3",
    "n/a",
    "/dev/zero",
    ".",
)


def table_text(rng: np.random.Generator, columns: tuple[str, ...], separator: str) -> bytes:
    """A table of random cells under some of the columns, now and then damaged."""
    names = [column for column in columns if rng.random() < 0.95]
    rows = [[str(rng.choice(CELLS)) for _ in names] for _ in range(rng.integers(0, 4))]
    text = "\n".join(separator.join(row) for row in [names, *rows]).encode("utf-8", "surrogateescape")
    return damaged(text, rng, header=40) if rng.random() < 0.3 else text


def test_tables(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    (tmp_path / "sub-1" / "anat").mkdir(parents=True)
    (tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii").touch()
    columns = ("patient", "session", "day", "t1c", "seg", "labels")
    clinical = ("patient_id", "session_id", "day", "rt_start_day", "dose", "fractions", "chemo_end_day")
    for _ in range(2 * ROUNDS):
        (tmp_path / "sessions.csv").write_bytes(table_text(rng, columns, ","))
        (tmp_path / "clinical.csv").write_bytes(table_text(rng, clinical, ","))
        for name, names in (("sessions", ("session_id", "acq_time", "days")), ("scans", ("filename", "acq_time"))):
            (tmp_path / "sub-1" / f"sub-1_{name}.tsv").write_bytes(table_text(rng, names, "\t"))
        reads_or_refuses(lambda: take_inventory(tmp_path, Layout.TABLE))
        reads_or_refuses(lambda: date_sessions(find_scans(tmp_path, Layout.BIDS).sessions, None))
        reads_or_refuses(lambda: read_clinical(tmp_path / "clinical.csv"))
        reads_or_refuses(lambda: read_all(tmp_path, Layout.TABLE))


def test_what_is_no_ordinary_file(tmp_path: Path) -> None:
    """A device goes on for ever, and a pipe waits for ever."""
    os.mkfifo(tmp_path / "pipe.nii")
    for path in (Path("/dev/zero"), tmp_path / "pipe.nii", tmp_path, Path("a\0b.nii"), Path("a" * 300)):
        with pytest.raises(InputError, match="cannot be read"):
            read_image(path)
    assert LARGEST_VOXELS * 8 < 2**33  # what a header can make us ask for at most
