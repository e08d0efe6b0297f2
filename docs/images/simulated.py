"""The pictures of docs/commands/simulate.md; writes PNG files beside itself.

    .venv/bin/python docs/images/simulated.py [--out docs/images]

Each patient is the only one of a cohort: `tumorcast simulate OUT --patients 1 --sessions 4 --voxel-mm 1 --seed S`.
"""

import argparse
import io
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import SimpleITK as sitk
from PIL import Image

from tumorcast.records import Contrast
from tumorcast.simulation.anatomy import make_anatomy
from tumorcast.simulation.cohort import simulate_cohort
from tumorcast.simulation.fields import SimulationGrid
from tumorcast.simulation.mass_effect import displaced, displaced_tumour, tissue_shift
from tumorcast.simulation.render import Lesion, draw_scanners, render_session
from tumorcast.simulation.tumour import (
    TumourKind,
    draw_labels,
    draw_traits,
    first_state,
    infiltration,
    make_medium,
)

mpl.use("Agg")
import matplotlib.pyplot as plt

PATIENTS = {"pons": 5, "thalamus": 18, "glioblastoma": 46, "low-grade": 43}
PUSHING_SEED = 10
MARGIN = 3  # voxels kept round the brain
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Scan:
    """One session in one slice: T2F and T1C in [0, 1], labels, density in [0, 1], the day."""

    t2f: Array
    t1c: Array
    labels: Array
    density: Array
    day: float


def read(path: Path) -> Array:
    """(Z, Y, X) of a NIfTI file."""
    volume: Array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return volume


def scaled(volume: Array, percent: float = 99.8) -> Array:
    """From 0 to 1 at this percentile of the brain."""
    return np.asarray(np.clip(volume / np.percentile(volume[volume > 0], percent), 0, 1))


def frame(brain: Array) -> tuple[slice, slice]:
    """Rows and columns of a (Z, Y, X) brain mask, with a margin."""
    rows, columns = np.nonzero(brain.any(axis=0))
    return (
        slice(max(rows.min() - MARGIN, 0), rows.max() + MARGIN + 1),
        slice(max(columns.min() - MARGIN, 0), columns.max() + MARGIN + 1),
    )


def simulated(folder: Path, seed: int) -> tuple[list[Scan], dict[str, Any]]:
    """The sessions of a patient in the slice where its last mask is largest, and its entry in simulation.json."""
    simulate_cohort(folder, patients=1, seed=seed, sessions=4, voxel_mm=1.0)
    patient = json.loads((folder / "simulation.json").read_text(encoding="utf-8"))["patients"][0]
    names = [f"{patient['patient_id']}-{number:03d}" for number in range(4)]
    z = int((read(folder / names[-1] / f"{names[-1]}-seg.nii.gz") > 0).sum(axis=(1, 2)).argmax())
    crop = (z, *frame(read(folder / names[0] / f"{names[0]}-t2f.nii.gz") > 0))
    scans = [
        Scan(
            t2f=scaled(read(folder / name / f"{name}-t2f.nii.gz"), 99.97)[crop],  # lesions keep their texture
            t1c=scaled(read(folder / name / f"{name}-t1c.nii.gz"))[crop],
            labels=read(folder / name / f"{name}-seg.nii.gz")[crop],
            density=read(folder / "truth" / f"{name}-density.nii.gz")[crop] / 1e4,
            day=day,
        )
        for name, day in zip(names, patient["schedule"]["scan_days"], strict=True)
    ]
    return scans, patient


def draw_patient(scans: list[Scan], path: Path) -> None:
    """Three rows: T2F with the outline, T1C, density with the outline; a column a session."""
    height, width = scans[0].t2f.shape
    figure, axes = plt.subplots(3, len(scans), figsize=(1.9 * len(scans), 1.9 * 3 * height / width + 0.2))
    for column, scan in zip(axes.T, scans, strict=True):
        column[0].set_title(f"day {scan.day:g}", fontsize=8, pad=2)
        column[0].imshow(scan.t2f, cmap="gray", vmin=0, vmax=1)
        column[1].imshow(scan.t1c, cmap="gray", vmin=0, vmax=1)
        column[2].imshow(scan.density, cmap="gray", vmin=0, vmax=1)
        for panel in (column[0], column[2]):
            if scan.labels.any():
                panel.contour(scan.labels > 0, [0.5], colors="cyan", linewidths=0.7)
    finish(figure, axes, path)


def finish(figure: Any, axes: Array, path: Path) -> None:
    """Close the gaps and write a small PNG: 256 colours are enough for greys and an outline."""
    for panel in axes.ravel():
        panel.axis("off")
    figure.subplots_adjust(0, 0, 1, 0.96, 0.02, 0.02)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, facecolor="white")
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_mass_effect(path: Path) -> None:
    """A glioblastoma that pushes by 7 mm at most: T1N of the head at rest, as pushed, and how far the tissue went."""
    rng = np.random.default_rng(PUSHING_SEED)
    anatomy = make_anatomy(rng, SimulationGrid(1.0))
    drawn = replace(draw_traits(rng), kind=TumourKind.GLIOBLASTOMA, mass_mm=7.0, first_volume_mm3=45e3, enhancement=0.9)
    medium = make_medium(rng, anatomy, drawn)
    state = first_state(rng, anatomy, drawn, medium)
    scanners = draw_scanners(rng, anatomy.grid)
    images, outlines = [], []
    for mass_mm in (0.0, drawn.mass_mm):
        shift = tissue_shift(state.visible, anatomy, mass_mm)
        head = displaced(anatomy, shift)
        seen, around = displaced_tumour(state, medium, shift)
        lesion = Lesion(draw_labels(seen, head, drawn, around), seen.living, infiltration(seen, drawn, around))
        images.append(scaled(render_session(np.random.default_rng(0), head, lesion, scanners)[Contrast.T1N]))
        outlines.append(lesion.labels > 0)
    crop = (int(outlines[0].sum(axis=(1, 2)).argmax()), *frame(anatomy.brain))
    draw_push(path, [image[crop] for image in images], [outline[crop] for outline in outlines], shift[:, *crop])


def draw_push(path: Path, images: list[Array], outlines: list[Array], shift: Array) -> None:
    """Three panels of one slice: images at rest and pushed; shift: (3, Y, X) displacement in mm, z, y, x."""
    length_mm = np.sqrt((shift**2).sum(axis=0))
    height, width = length_mm.shape
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.8 * height / width + 0.25))
    for panel, image, outline, title in zip(axes, images, outlines, ("at rest", "pushed"), strict=False):
        panel.imshow(image, cmap="gray", vmin=0, vmax=1)
        panel.contour(outline, [0.5], colors="cyan", linewidths=0.7)
        panel.set_title(title, fontsize=9, pad=2)
    axes[2].imshow(images[1], cmap="gray", vmin=0, vmax=1.3)
    y, x = np.mgrid[4:height:8, 4:width:8]
    far = length_mm[y, x] > 0.5
    axes[2].quiver(
        x[far], y[far], shift[2, y, x][far], shift[1, y, x][far], color="gold", angles="xy", scale_units="xy", scale=0.5
    )
    axes[2].contour(outlines[0], [0.5], colors="cyan", linewidths=0.7)
    axes[2].set_title(f"displacement × 2, {length_mm.max():.1f} mm at most", fontsize=9, pad=2)
    finish(figure, axes, path)


def main() -> None:
    """Simulate, draw, and tell what each patient is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    for name, seed in PATIENTS.items():
        with tempfile.TemporaryDirectory() as folder:
            scans, patient = simulated(Path(folder) / "cohort", seed)
        draw_patient(scans, options.out / f"simulated-{name}.png")
        print(json.dumps({"name": name, "seed": seed, **patient}))
    draw_mass_effect(options.out / "simulated-mass-effect.png")


if __name__ == "__main__":
    main()
