"""Names, dates and numbers planted in headers and file names are in no byte of what the commands write or print."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the filters that unpack the archives
import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension
from PIL import Image
from typer.testing import CliRunner

from tumorcast.cli.main import app
from tumorcast.data.cohort import Cohort

IN_HEADERS = ("Zwickelmann", "Ottokar", "ZZQ8812", "19410312", "ACC77123", "Rechtsufer", "1987-0", "Dr.Quast")
IN_FILE_NAMES = ("Nachname-Vorname", "19990909")
SMALL = ("--min-tumour-mm2", "5", "--image-size", "64")
KINDS = {"t1n": "AX T1", "t1c": "AX T1 POST", "t2w": "AX T2", "t2f": "T2 FLAIR"}
DAYS = {"001": "19870423", "002": "19870623", "003": "19870823"}
IN_HEADERS += tuple(DAYS.values())  # whole: five digits of a date are digits of some number too
RADII = {"001": 6.0, "002": 7.0, "003": 8.5}
PLANTED_TAGS = {
    "PatientName": "Zwickelmann^Ottokar",
    "PatientID": "ZZQ8812",
    "PatientBirthDate": "19410312",
    "AccessionNumber": "ACC77123",
    "InstitutionName": "Klinikum Rechtsufer",
    "ReferringPhysicianName": "Dr.Quast",
    "StudyDescription": "Zwickelmann Kontrolle",
    "ProtocolName": "Ottokar",
    "PatientComments": "ZZQ8812 Zwickelmann",
}


def run(*words: object, codes: tuple[int, ...] = (0,)) -> str:
    """Everything that a command prints."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert getattr(result.exception, "exit_code", result.exit_code) in codes, (result.output, result.exception)
    return f"{result.output}{result.stderr}{result.exception or ''}"


Z, Y, X = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (6, 36, 40)), indexing="ij")
BRAIN = (X / 17) ** 2 + (Y / 15) ** 2 + (Z / 4) ** 2 < 1


def phantom(kind: str, radius: float) -> np.ndarray[Any, Any]:
    """A brain with a round tumour: intensities of a contrast, or labels for `seg`."""
    tumour = BRAIN & (radius**2 > (X - 4) ** 2 + (Y + 3) ** 2 + (3 * Z) ** 2)
    if kind == "seg":
        return (2 * tumour).astype(np.uint8)
    return np.where(BRAIN, 400 + 100 * list(KINDS).index(kind) + 3 * X + 150 * tumour, 0).astype(np.int16)


def planted_nifti(path: Path, voxels: np.ndarray[Any, Any]) -> Path:
    image = nibabel.Nifti1Image(voxels.T, np.diag([-1.0, -1.0, 1.0, 1.0]))
    for field, text in (
        ("descrip", "Zwickelmann^Ottokar 19870423"),
        ("aux_file", "ACC77123"),
        ("intent_name", "ZZQ8812"),
    ):
        image.header[field] = text
    image.header["db_name"] = "Rechtsufer"
    for code in ("comment", "dicom"):
        image.header.extensions.append(Nifti1Extension(code, b"Zwickelmann 1987-04-23 Dr.Quast"))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    assert b"Zwickelmann" in gzip.decompress(path.read_bytes())
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, dicom_series: Callable) -> Path:
    """A folder with DICOM of patient A, NIfTI of patient N, and tables that name both."""
    root = tmp_path_factory.mktemp("planted")
    rows = []
    for session, day in DAYS.items():
        study = root / "dicom" / "A" / f"Nachname-Vorname-19990909-{session}"
        cells = {"A": [], "N": []}
        for number, (kind, description) in enumerate(KINDS.items(), 1):
            folder = study / f"{number}"
            voxels = phantom(kind, RADII[session])
            tags = PLANTED_TAGS | {"SeriesDescription": f"{description} Zwickelmann", "StudyDate": day}
            dicom_series(folder, voxels, StudyInstanceUID=f"1.{session[-1]}", **tags)
            for path in folder.iterdir():
                path.rename(folder / f"Nachname-Vorname {path.name}.dcm")
            cells["A"].append(folder)
            cells["N"].append(planted_nifti(root / "nifti" / f"Nachname-Vorname {session} {kind}.nii.gz", voxels))
        cells["A"].append(planted_nifti(study / "Nachname-Vorname seg.nii.gz", phantom("seg", RADII[session])))
        cells["N"].append(cells["A"][-1])
        rows += [[patient, session, str(30 * int(session)), *map(str, cells[patient])] for patient in cells]
    for name, last in (("truth.csv", "003"), ("past.csv", "002")):
        lines = [
            ",".join(("patient", "session", "day", *KINDS, "seg")),
            *(",".join(row) for row in rows if row[1] <= last),
        ]
        (root / name).write_text("\n".join(lines))
    return root


def small_model(cohort: Path, folder: Path) -> None:
    """Networks a quarter as wide as those of `tiny_model`, as the forecast takes most of the time here."""
    from tumorcast.settings import NetworkKind, TrainSettings
    from tumorcast.training.train import train

    narrow = {"channels": 32, "head_channels": 32, "channel_mult": (1, 1), "res_blocks": 1, "attention_resolutions": ()}
    for kind in (NetworkKind.DENOISER, NetworkKind.DENSE_REGRESSOR, NetworkKind.SEGMENTER):
        train(kind, cohort, folder / kind, TrainSettings(steps=1, batch=2), architecture=narrow)


@pytest.fixture(scope="module")
def outputs(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with what every command writes, and all that they print."""
    out = tmp_path_factory.mktemp("written")
    few = ("--relative-change", ".2", "--members", "2", "--steps", "2", "--max-slices", "1")
    printed = [
        run("prepare", sources / f"{name}.csv", *SMALL, "--slices", "all", "--out", out / f"{name}.h5")
        for name in ("past", "truth")
    ]
    small_model(out / "truth.h5", out / "model")
    printed += [  # the fit last: it gives threads to the libraries, for which the networks are too small
        run("prepare", sources / "dicom", *SMALL, "--out", out / "dicom.h5", "--json"),
        run("forecast", out / "past.h5", "--model", out / "model", *few, "--out", out / "maps.h5"),
        run("show", out / "maps.h5", "--out", out / "pictures", "--json"),
        run(
            "evaluate", out / "maps.h5", "--truth", out / "truth.h5", "--out", out / "evaluation", "--baselines", "none"
        ),
        run("fit", out / "truth.h5", "--out", out / "growth.h5", "--plots", out / "plots", codes=(0, 1)),
    ]
    return out, "\n".join(printed)


def texts(path: Path) -> Iterator[bytes]:
    """The bytes of a file, those that its packing hides, and what a picture says beside its pixels."""
    yield path.read_bytes()
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            found: list[bytes] = []
            file.visititems(lambda name, item: found.extend(_unpacked(name, item)))
            yield from [*found, *_unpacked("/", file)]
    if path.suffix == ".png":
        with Image.open(path) as picture:
            yield str(picture.info).encode()


def _unpacked(name: str, item: Any) -> Iterator[bytes]:
    yield name.encode()
    yield from (f"{key} {value}".encode() for key, value in item.attrs.items())
    if isinstance(item, h5py.Dataset):
        value = item[()]
        yield value if isinstance(value, bytes) else np.asarray(value).tobytes()


def found_in(text: bytes, words: tuple[str, ...]) -> list[str]:
    """Which of the words stand in the bytes, in one byte or two a letter."""
    lower = text.lower()
    return [word for word in words if word.lower().encode() in lower or word.lower().encode("utf-16-le") in lower]


def test_the_search_finds_what_is_packed(tmp_path: Path) -> None:
    """The test of the test: a word in compressed data, in an attribute, in a picture."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        note = np.frombuffer(b"Zwickelmann" * 200, np.uint8)
        file.create_dataset("x", data=note, chunks=(500,), compression="gzip", shuffle=True)
        file["x"].attrs["y"] = "ZZQ8812"
    assert not found_in((tmp_path / "a.h5").read_bytes(), ("Zwickelmann",))
    assert {word for text in texts(tmp_path / "a.h5") for word in found_in(text, IN_HEADERS)} == {
        "Zwickelmann",
        "ZZQ8812",
    }


@pytest.mark.slow
def test_no_file_tells_whose_scans_they_are(outputs: tuple[Path, str], sources: Path) -> None:
    """And none tells where they lay: paths are told to who runs a command, and not kept."""
    places = (str(sources), str(outputs[0]))
    written = [path for path in outputs[0].rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".h5", ".png", ".json", ".md", ".csv", ".tsv"}
    for path in written:
        told = {word for text in texts(path) for word in found_in(text, (*IN_HEADERS, *IN_FILE_NAMES, *places))}
        assert not told, f"{path.relative_to(outputs[0])} tells {told}"
        assert not found_in(str(path).encode(), (*IN_HEADERS, *IN_FILE_NAMES))


@pytest.mark.slow
def test_nothing_that_is_printed_tells_it(outputs: tuple[Path, str]) -> None:
    assert "truth.h5" in outputs[1]
    assert not found_in(outputs[1].encode(), (*IN_HEADERS, *IN_FILE_NAMES))


@pytest.mark.slow
def test_dates_become_days_and_folders_patients(outputs: tuple[Path, str]) -> None:
    with Cohort.open(outputs[0] / "dicom.h5") as cohort:
        assert cohort.patient_ids() == ["A"]
        assert [(one.id, one.day) for one in cohort.sessions("A")] == [("001", 0.0), ("002", 61.0), ("003", 122.0)]
        assert sorted(cohort.source("A", "001")["files"]) == ["seg", "t1c", "t1n", "t2f", "t2w"]


def refused_scans(root: Path, dicom_series: Callable) -> None:
    """Patients who fail in four ways."""
    voxels = phantom("t1c", 7.0)
    dicom_series(root / "A" / "1", voxels, "AX T1 POST Zwickelmann", skip=(2,), **PLANTED_TAGS)
    dicom_series(root / "B" / "1", voxels, "T1 POST Ottokar", Rows=30_000, Columns=30_000, **PLANTED_TAGS)
    damaged = planted_nifti(root / "C" / "C-t1c.nii.gz", voxels)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    cut = next(dicom_series(root / "D" / "1", voxels, "T1 POST Ottokar", **PLANTED_TAGS).iterdir())
    cut.write_bytes(cut.read_bytes()[:600])


def test_refusals_tell_no_header(tmp_path: Path, dicom_series: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    """What GDCM and ITK write to stderr by themselves is caught too. File names are told, for them to be mended."""
    scans, bids = tmp_path / "scans", tmp_path / "bids"
    refused_scans(scans, dicom_series)
    folder = planted_nifti(bids / "sub-1" / "ses-1" / "anat" / "sub-1_ses-1_T1w.nii.gz", phantom("t1c", 7.0)).parents[2]
    (folder / "sub-1_sessions.tsv").write_text("session_id\tacq_time\nses-1\t1987-04-23 at noon\n")
    rest = ("--slices", "all", "--out", tmp_path / "c.h5")
    told = [run("prepare", bids, *rest, codes=(3,))]
    for layout in ("dicom", "brats"):
        told.append(run("prepare", scans, "--layout", layout, *rest, codes=(3,)))
        told.append(run("prepare", scans, "--layout", layout, "--dry-run", "--json", "--slices", "all", codes=(0, 3)))
    captured = capfd.readouterr()
    text = "\n".join([*told, captured.out, captured.err])
    expected = ("slices are missing", "voxels; up to", "truncated or damaged", "is no date", "damaged or cut short")
    assert [word for word in expected if word not in text] == []
    assert not found_in(text.encode(), IN_HEADERS)
