"""A simulated cohort in BraTS 2023 layout, with its truth: `tumorcast simulate`.

OUT/{id}-{session}/{id}-{session}-{t1n,t1c,t2w,t2f,seg}.nii.gz   skull-stripped int16, labels uint8, one grid
OUT/truth/{id}-{session}-density.nii.gz                    cells, int16, in 1/10000 of the most that tissue can hold
OUT/clinical.csv       patient_id, session_id, day, rt_start_day, rt_end_day (empty without radiotherapy)
OUT/simulation.json    seed, version, settings and every patient's parameters and tumour volumes

Days count from diagnosis. Patient k comes from SeedSequence(seed, spawn_key=(k,)) alone: the same for any number of
patients or processes. Anatomy, growth and rendering: see tumorcast.simulation.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tumorcast.errors import InputError, UsageError
from tumorcast.processes import in_processes
from tumorcast.records import RadiotherapyCourse
from tumorcast.simulation.anatomy import Anatomy, load_template, make_anatomy
from tumorcast.simulation.fields import SimulationGrid, Volume
from tumorcast.simulation.mass_effect import displaced, displaced_tumour, tissue_shift
from tumorcast.simulation.render import Lesion, draw_scanners, render_session
from tumorcast.simulation.tumour import (
    Medium,
    SpreadLaw,
    TumourState,
    TumourTraits,
    draw_labels,
    draw_traits,
    first_state,
    infiltration,
    make_medium,
    state_after,
)
from tumorcast.tables import RADIOTHERAPY_DAYS
from tumorcast.version import VERSION

MIN_VOXEL_MM, MAX_VOXEL_MM = 0.5, 8.0
# Gaps between scans as in MU-Glioma-Post (132 gaps of 40 patients): ln(days) has mean 4.12 and deviation .78.
GAP_LOG_MEAN, GAP_LOG_DEVIATION = 4.12, 0.78
MIN_GAP_DAYS, MAX_GAP_DAYS = 14, 220
DENSITY_UNIT = 10_000
TRUTH_FOLDER = "truth"
RADIOTHERAPY_SHARE = 0.8
CLINICAL_COLUMNS = ("patient_id", "session_id", "day", "rt_start_day", "rt_end_day")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SimulationPlan:
    """What every patient of a cohort is made with; sessions: fewest and most of a patient."""

    seed: int
    sessions: tuple[int, int]
    voxel_mm: float
    spread: SpreadLaw


@dataclass(frozen=True)
class ScanSchedule:
    """When a patient is scanned and irradiated, in days from diagnosis."""

    scan_days: tuple[float, ...]
    course: RadiotherapyCourse | None


def simulate_cohort(
    out: Path,
    *,
    patients: int,
    seed: int,
    sessions: int | tuple[int, int] = 3,
    voxel_mm: float = 1.0,
    spread: SpreadLaw = SpreadLaw.FIBRES,
    jobs: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write a simulated cohort into the folder `out`, new or empty.

    sessions: scans a patient, or the fewest and the most. voxel_mm: 1 gives 240 x 240 x 155 voxels. spread: what leads
    the tumours; all else that is drawn is the same with either. jobs: processes.
    progress is called with (patients done, patients) after each. Raises UsageError for numbers out of range, InputError
    where `out` cannot be written or is not empty, EngineError without nilearn.
    """
    fewest, most = (sessions, sessions) if isinstance(sessions, int) else sessions
    plan = SimulationPlan(seed=seed, sessions=(fewest, most), voxel_mm=voxel_mm, spread=spread)
    _check(plan, patients, jobs)
    load_template()
    _make_folder(out)
    try:
        records = []
        for record in in_processes(partial(_simulate_patient, out, plan), range(patients), min(jobs, patients)):
            records.append(record)
            if progress is not None:
                progress(len(records), patients)
        _write_clinical(out / "clinical.csv", records)
        _write_truth(out / "simulation.json", plan, records)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{out}: cannot be written ({why}); free space or choose another folder") from error


def _check(plan: SimulationPlan, patients: int, jobs: int) -> None:
    fewest, most = plan.sessions
    if not 1 <= patients <= 99_999:
        raise UsageError(f"--patients {patients}: 1 to 99999 can be simulated at once")
    if plan.seed < 0:
        raise UsageError(f"--seed {plan.seed}: a seed is 0 or larger")
    if not 1 <= fewest <= most <= 999:
        raise UsageError(f"--sessions {fewest}-{most}: between 1 and 999, the fewest first")
    if not MIN_VOXEL_MM <= plan.voxel_mm <= MAX_VOXEL_MM:
        raise UsageError(f"--voxel-mm {plan.voxel_mm:g}: voxels measure {MIN_VOXEL_MM} to {MAX_VOXEL_MM} mm")
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one process is needed")


def _make_folder(out: Path) -> None:
    """An empty folder to write into."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        empty = not any(out.iterdir())
        if empty:
            (out / TRUTH_FOLDER).mkdir()
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder ({error.strerror}); choose another --out") from error
    if not empty:
        raise InputError(
            f"{out}: not empty; give a new folder, as files of other patients would be among those simulated"
        )


def _simulate_patient(out: Path, plan: SimulationPlan, index: int) -> dict[str, Any]:
    """Write all scans of one patient; return what is known about it."""
    patient_id = f"SIM-{index + 1:05d}"
    key = np.random.SeedSequence(plan.seed, spawn_key=(index,))
    of_anatomy, of_tumour, of_schedule, of_scanner, *of_sessions = key.spawn(4 + plan.sessions[1])
    schedule = draw_schedule(np.random.default_rng(of_schedule), plan.sessions)
    grid = SimulationGrid(plan.voxel_mm)
    anatomy = make_anatomy(np.random.default_rng(of_anatomy), grid)
    rng = np.random.default_rng(of_tumour)
    traits = draw_traits(rng)
    medium = make_medium(rng, anatomy, traits, plan.spread)
    state = first_state(rng, anatomy, traits, medium)
    scanners = draw_scanners(np.random.default_rng(of_scanner), grid)
    volumes, before = [], schedule.scan_days[0]
    for number, day in enumerate(schedule.scan_days):
        state = state_after(state, anatomy, traits, medium, from_day=before, to_day=day, course=schedule.course)
        shown, lesion = _as_it_lies(state, anatomy, traits, medium)
        images = render_session(np.random.default_rng(of_sessions[number]), shown, lesion, scanners)
        _write_session(out, f"{patient_id}-{number:03d}", grid, {**images, "seg": lesion.labels}, lesion.density)
        volumes.append(float((lesion.labels > 0).sum() * plan.voxel_mm**3))
        before = day
    return {
        "patient_id": patient_id,
        "schedule": asdict(schedule),
        "tumour": asdict(traits),
        "brain_mm3": float(anatomy.brain.sum() * plan.voxel_mm**3),
        "volume_mm3": volumes,
    }


def _as_it_lies(state: TumourState, anatomy: Anatomy, traits: TumourTraits, medium: Medium) -> tuple[Anatomy, Lesion]:
    """Head and tumour as the scanner meets them: moved by the tumour's mass."""
    shift = tissue_shift(state.visible, anatomy, traits.mass_mm)
    head = displaced(anatomy, shift)
    seen, around = displaced_tumour(state, medium, shift)
    lesion = Lesion(
        labels=draw_labels(seen, head, traits, around),
        density=seen.living,
        infiltration=infiltration(seen, traits, around),
    )
    return head, lesion


def draw_schedule(rng: np.random.Generator, sessions: tuple[int, int]) -> ScanSchedule:
    """Irregular scan days, the first near diagnosis, and one course of radiotherapy for most patients."""
    first = float(rng.integers(0, 15))
    treated = rng.random() < RADIOTHERAPY_SHARE
    start = first + float(rng.integers(14, 43))
    count = int(rng.integers(sessions[0], sessions[1] + 1))
    drawn = np.exp(rng.normal(GAP_LOG_MEAN, GAP_LOG_DEVIATION, count - 1))
    gaps = np.clip(np.rint(drawn), MIN_GAP_DAYS, MAX_GAP_DAYS)
    days = (first, *(first + float(day) for day in np.cumsum(gaps)))
    return ScanSchedule(days, RadiotherapyCourse(start, start + RADIOTHERAPY_DAYS) if treated else None)


def _write_session(
    out: Path, name: str, grid: SimulationGrid, volumes: dict[Any, npt.NDArray[Any]], density: Volume
) -> None:
    """One session: its density, and its folder, written under a hidden name, then renamed."""
    stored = np.rint(DENSITY_UNIT * density).astype(np.int16)
    _write_image(out / TRUTH_FOLDER / f"{name}-density.nii.gz", grid, stored)
    hidden = out / f".{name}.part"
    hidden.mkdir(exist_ok=True)
    for suffix, volume in volumes.items():
        _write_image(hidden / f"{name}-{suffix}.nii.gz", grid, volume)
    hidden.rename(out / name)


def _write_image(path: Path, grid: SimulationGrid, work: npt.NDArray[Any]) -> None:
    image = sitk.GetImageFromArray(grid.embed(work))
    half = (grid.voxel_mm - 1.0) / 2  # the field's corner stays where BraTS has it, at any voxel size
    image.SetSpacing((grid.voxel_mm,) * 3)
    image.SetOrigin((half, -239.0 + half, half))
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    except RuntimeError as error:  # SimpleITK's only exception, whatever went wrong
        raise OSError(f"{path.name} could not be written") from error


def _write_clinical(path: Path, records: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CLINICAL_COLUMNS)
        for record in records:
            course = record["schedule"]["course"]
            dates = ("", "") if course is None else (f"{course['start_days']:g}", f"{course['end_days']:g}")
            for number, day in enumerate(record["schedule"]["scan_days"]):
                writer.writerow((record["patient_id"], f"{number:03d}", f"{day:g}", *dates))


def _write_truth(path: Path, plan: SimulationPlan, records: list[dict[str, Any]]) -> None:
    truth = {"format": "tumorcast-simulation", "version": VERSION, **asdict(plan), "patients": records}
    path.write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
