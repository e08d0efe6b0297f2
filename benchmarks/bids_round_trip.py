"""Do scans that another library wrote as BIDS come back in their own voxels? Prints a table and writes JSON.

    OMP_NUM_THREADS=1 benchmarks/bids_round_trip.py --real ../shared/data/tcga_lgg --out bids.json [--keep DIR]

In: nibabel alone writes BIDS data sets (sub-, ses-, sessions.tsv, masks in derivatives) from tcga_lgg, as it is, and
from a simulated cohort of two scans each. The simulated patients lie obliquely: `thick` in slices of 4 mm, `sagittal`
with voxels stored in the order PIR, `lps` as DICOM has it. For the second scan the head has turned by 8 degrees and
moved by 12 mm, under a scanner that is itself tilted by 5 degrees: it is read (linearly, masks by the nearest voxel)
on another grid.
Through: `tumorcast prepare` (without and with --register rigid), `forecast` of the shipped demo128, `export-maps`, as a
user starts them. export-maps gets no cohort file: the archive alone must tell the way home.
Out: nibabel reads what was written. For the last scan of each patient:

affine: the largest difference from the file's own, in mm, at the corners of the volume.
native: Dice of the mask in the scan's own voxels with the mask that went in, in the slices that were forecast.
cohort: the same on the pixels of the forecast, where the mask that went in is put by nibabel; a registered scan by the
motion that is known, so that this counts what registration misses too.
scan: correlation of the exported T1c with the file, in the scan's own voxels, in the brain and the window of intensity.
outside: share of the growth map that lies outside the brain. likely: Dice of growth above one half with the mask.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from machine import describe
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

MODEL = Path(__file__).parents[1] / "tumorcast" / "models" / "demo128"
SUFFIXES = {"t1n": "T1w", "t1c": "ce-gadolinium_T1w", "t2w": "T2w", "t2f": "FLAIR"}
MASK = "desc-tumor_dseg"
DATES = ("2019-03-02T10:15:00", "2019-06-20T09:40:00")
TURN_DEGREES, SHIFT_MM, TILT_DEGREES = 8.0, 12.0, 5.0
IN_WINDOW = 0.99  # beyond, an intensity was clipped
COLUMNS = ("data", "register", "patient", "axes", "voxel", "affine_mm", "native", "cohort", "scan", "outside", "likely")


@dataclass(frozen=True)
class Written:
    """A scan as it was written. motion: (4, 4) where points of the patient's first scan lie in it, RAS mm."""

    subject: str
    session: str
    images: dict[str, nib.Nifti1Image]
    mask: nib.Nifti1Image
    motion: np.ndarray[Any, Any]

    @property
    def stem(self) -> str:
        """What its files' names begin with."""
        return f"sub-{self.subject}_ses-{self.session}"


@dataclass(frozen=True)
class Position:
    """How a patient lies in the scanner, of how many slices one is kept, and in which order voxels are stored.

    degrees: about x, y and z, in turn.
    """

    name: str
    degrees: tuple[float, float, float]
    shift_mm: tuple[float, float, float]
    thick: int
    axes: str

    @property
    def motion(self) -> np.ndarray[Any, Any]:
        """(4, 4) from where the simulator put the patient, RAS mm."""
        return rigid(Rotation.from_euler("xyz", self.degrees, degrees=True), np.array(self.shift_mm))


POSITIONS = (
    Position("thick", (9.0, -6.0, 14.0), (13.5, -22.25, 40.0), 2, "RAS"),
    Position("sagittal", (-4.0, 12.0, -7.0), (-30.0, 5.5, -18.125), 1, "PIR"),
    Position("lps", (11.0, 5.0, -16.0), (2.0, 61.0, 7.75), 1, "LPS"),
)


def rigid(turn: Rotation, shift: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(4, 4) a turn about the origin, then a shift."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn.as_matrix(), shift
    return matrix


def brats_files(folder: Path) -> dict[str, nib.Nifti1Image]:
    """The contrasts and the mask of a scan in BraTS layout."""
    return {kind: nib.Nifti1Image.from_filename(folder / f"{folder.name}-{kind}.nii.gz") for kind in (*SUFFIXES, "seg")}


def real_scans(source: Path) -> Iterator[Written]:
    """Each scan of a folder in BraTS layout, voxels and affines as they are."""
    for folder in sorted(source.iterdir()):
        files = brats_files(folder)
        mask = files.pop("seg")
        yield Written(folder.name.replace("-", ""), "1", files, mask, np.eye(4))


def simulated_scans(source: Path) -> Iterator[Written]:
    """Each patient of a simulated cohort in its own position, and again, moved, for the second scan."""
    for position, folder in zip(POSITIONS, sorted(source.glob("SIM-*-000")), strict=True):
        first = {kind: put(image, position) for kind, image in brats_files(folder).items()}
        again = {
            kind: put(image, position) for kind, image in brats_files(folder.with_name(folder.name[:-1] + "1")).items()
        }
        centre = nib.affines.apply_affine(first["seg"].affine, np.array(first["seg"].shape) / 2)
        motion = about(centre, TURN_DEGREES, (0.6, -0.64, 0.48))
        motion[:3, 3] += SHIFT_MM * np.array([-0.48, 0.6, 0.64])
        scanner = about(centre, TILT_DEGREES, (1.0, 0.0, 0.0)) @ first["seg"].affine
        moved = {kind: read_on(image, motion, scanner, mask=kind == "seg") for kind, image in again.items()}
        yield Written(position.name, "1", {kind: first[kind] for kind in SUFFIXES}, first["seg"], np.eye(4))
        yield Written(position.name, "2", {kind: moved[kind] for kind in SUFFIXES}, moved["seg"], motion)


def about(centre: np.ndarray[Any, Any], degrees: float, axis: tuple[float, float, float]) -> np.ndarray[Any, Any]:
    """(4, 4) a turn about an axis of unit length through `centre`."""
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array(axis))
    return rigid(turn, centre - turn.apply(centre))


def put(image: nib.Nifti1Image, position: Position) -> nib.Nifti1Image:
    """The image with all its voxels in a position: of each `thick` slices the first, in the order of `axes`."""
    values = np.asanyarray(image.dataobj)[:, :, :: position.thick]
    affine = position.motion @ image.affine @ np.diag([1.0, 1.0, position.thick, 1.0])
    upright = nib.orientations.axcodes2ornt(nib.aff2axcodes(image.affine))
    way = nib.orientations.ornt_transform(upright, nib.orientations.axcodes2ornt(tuple(position.axes)))
    turned: nib.Nifti1Image = nib.Nifti1Image(values, affine).as_reoriented(way)
    return turned


def read_on(
    image: nib.Nifti1Image, motion: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], *, mask: bool = False
) -> nib.Nifti1Image:
    """The image, moved, on voxels of its shape at `affine`."""
    moved = nib.Nifti1Image(np.asanyarray(image.dataobj), motion @ image.affine)
    resampled: nib.Nifti1Image = resample_from_to(moved, (image.shape, affine), order=0 if mask else 1)
    return resampled


def write_bids(root: Path, scans: list[Written]) -> None:
    """A raw data set, and among its derivatives the masks of a reader."""
    described = {"Name": "Round trip", "BIDSVersion": "1.10.1"}
    masks = root / "derivatives" / "reader"
    masks.mkdir(parents=True)
    (root / "dataset_description.json").write_text(json.dumps(described | {"DatasetType": "raw"}))
    derivative = described | {"DatasetType": "derivative", "GeneratedBy": [{"Name": "reader"}]}
    (masks / "dataset_description.json").write_text(json.dumps(derivative))
    for scan in scans:
        for place in (root, masks):
            (place / f"sub-{scan.subject}" / f"ses-{scan.session}" / "anat").mkdir(parents=True)
        for kind, image in scan.images.items():
            nib.save(image, image_path(root, scan, kind))
        anat = Path(f"sub-{scan.subject}", f"ses-{scan.session}", "anat")
        nib.save(scan.mask, masks / anat / f"{scan.stem}_{MASK}.nii.gz")
    for subject in dict.fromkeys(scan.subject for scan in scans):
        rows = [f"ses-{s.session}\t{DATES[int(s.session) - 1]}\n" for s in scans if s.subject == subject]
        table = root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv"
        table.write_text("session_id\tacq_time\n" + "".join(rows))


def image_path(root: Path, scan: Written, kind: str) -> Path:
    """Where a contrast of a scan stands in a raw data set."""
    return root / f"sub-{scan.subject}/ses-{scan.session}/anat/{scan.stem}_{SUFFIXES[kind]}.nii.gz"


def tumorcast(*words: object) -> None:
    """Start a command as a user does. Raises RuntimeError with what it said if it fails."""
    command = [sys.executable, "-m", "tumorcast", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")


def through(bids: Path, place: Path, register: str, steps: int) -> Path:
    """From a data set to that of the maps, by the three commands."""
    place.mkdir()
    cohort, maps = place / "cohort.h5", place / "maps.h5"
    tumorcast("prepare", bids, "--out", cohort, "--image-size", 128, "--register", register)
    few = ("--members", 2, "--max-slices", 2, "--steps", steps, "--relative-change", 0.25)
    tumorcast("forecast", cohort, "--model", MODEL, "--out", maps, *few)
    tumorcast("export-maps", maps, "--bids", place / "derivatives")
    return place / "derivatives"


@dataclass(frozen=True)
class Exported:
    """What was written of one scan in one space."""

    root: Path
    scan: Written
    space: str

    def image(self, rest: str, agent: str = "") -> nib.Nifti1Image:
        """One of its images, by what its name says before and after the space."""
        name = f"{self.scan.stem}_{agent}space-{self.space}_{rest}.nii.gz"
        return nib.Nifti1Image.from_filename(
            self.root / f"sub-{self.scan.subject}" / f"ses-{self.scan.session}" / "anat" / name
        )

    def values(self, rest: str, agent: str = "") -> np.ndarray[Any, Any]:
        """The voxels of one of its images."""
        return np.asarray(self.image(rest, agent).dataobj)

    def every(self) -> list[nib.Nifti1Image]:
        """All of its images."""
        return [
            nib.Nifti1Image.from_filename(path)
            for path in sorted(self.root.rglob(f"{self.scan.stem}_*space-{self.space}_*.nii.gz"))
        ]


def dice(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Of two masks."""
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def corners_apart(one: nib.Nifti1Image, other: nib.Nifti1Image) -> float:
    """The largest distance in mm between the corners of two volumes of one shape."""
    if one.shape != other.shape:
        return float("inf")
    corners = np.stack(np.meshgrid(*((0, side - 1) for side in one.shape)), axis=-1).reshape(-1, 3)
    places = [nib.affines.apply_affine(image.affine, corners) for image in (one, other)]
    return float(np.linalg.norm(places[0] - places[1], axis=1).max())


def figures(data: str, register: str, exported: Path, scan: Written, first: Written) -> dict[str, Any]:
    """The record of a scan; see the head of this file. first: the patient's first scan."""
    home, cohort = Exported(exported, scan, "orig"), Exported(exported, scan, "cohort")
    file, mask = scan.images["t1c"], np.asarray(scan.mask.dataobj) > 0
    inside, covered = home.values("desc-brain_mask") > 0, home.values("desc-covered_mask") > 0
    present = home.values("desc-present_T1w", "ce-gadolinium_")
    inside &= np.abs(present) < IN_WINDOW
    likely, brain = cohort.values("label-tumor_probseg"), cohort.values("desc-brain_mask") > 0
    labels = cohort.image("desc-present_dseg")
    there = np.asarray(mask_on(labels, scan, first if register == "rigid" else scan).dataobj) > 0
    forecast = cohort.values("desc-covered_mask") > 0
    return {
        "data": data,
        "register": register,
        "patient": scan.subject,
        "axes": "".join(nib.aff2axcodes(file.affine)),
        "voxel": " x ".join(f"{side:.3g}" for side in file.header.get_zooms()),
        "affine_mm": max(corners_apart(image, file) for image in home.every()),
        "images": len(home.every()),
        "native": dice(home.values("desc-present_dseg") > 0, mask & covered),
        "cohort": dice(np.asarray(labels.dataobj) > 0, there & forecast),
        "scan": float(np.corrcoef(present[inside], np.asarray(file.dataobj)[inside])[0, 1]),
        "outside": float(likely[~brain].sum() / likely.sum()),
        "likely": dice(likely > 0.5, there & forecast),
    }


def mask_on(grid: nib.Nifti1Image, scan: Written, anchor: Written) -> nib.Nifti1Image:
    """The scan's own mask on a grid of the space of `anchor`, by the motions that are known."""
    mask = nib.Nifti1Image((np.asarray(scan.mask.dataobj) > 0).astype(np.uint8), scan.mask.affine)
    back = anchor.motion @ np.linalg.inv(scan.motion) @ mask.affine
    moved = nib.Nifti1Image(mask.dataobj, back)
    resampled: nib.Nifti1Image = resample_from_to(moved, (grid.shape, grid.affine), order=0)
    return resampled


def table(records: list[dict[str, Any]]) -> str:
    """The records in columns."""
    rows = [COLUMNS, *([cell(record[name]) for name in COLUMNS] for record in records)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def cell(value: str | float) -> str:
    """A cell."""
    return value if isinstance(value, str) else f"{value:.2g}" if value < 0.01 else f"{value:.4f}"


def main() -> None:
    """Parse, write, run, read, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=None, help="folder in BraTS layout, a scan a patient")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of the forecast's sampler")
    parser.add_argument("--keep", type=Path, default=None, help="a new folder for all that is written")
    parser.add_argument("--out", type=Path, default=None)
    asked, machine = parser.parse_args(), describe(threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        place = asked.keep or Path(temporary)
        tumorcast("simulate", place / "brats", "--patients", 3, "--seed", asked.seed, "--sessions", 2, "--voxel-mm", 2)
        sets = {"simulated": list(simulated_scans(place / "brats"))}
        if asked.real is not None:
            sets["real"] = list(real_scans(asked.real))
        records = [record for data, scans in sets.items() for record in round_trips(place, data, scans, asked.steps)]
    print(table(records))
    text = json.dumps({"machine": machine, "nibabel": nib.__version__, "records": records}, indent=1)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")


def round_trips(place: Path, data: str, scans: list[Written], steps: int) -> Iterator[dict[str, Any]]:
    """The records of a data set, without and with registration."""
    write_bids(place / f"{data}-bids", scans)
    by_subject = {scan.subject: [one for one in scans if one.subject == scan.subject] for scan in scans}
    for register in ("none", "rigid"):
        exported = through(place / f"{data}-bids", place / f"{data}-{register}", register, steps)
        for visits in by_subject.values():
            yield figures(data, register, exported, visits[-1], visits[0])


if __name__ == "__main__":
    main()
