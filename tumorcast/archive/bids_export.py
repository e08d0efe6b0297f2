"""An archive of forecasts as a BIDS data set of derivatives: maps, masks and forecasts as NIfTI, in one or two spaces.

What is written is named in docs/commands/export-maps.md. A patient that cannot be written does not stop the others.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.archive.bids_layout import (
    DESCRIPTIONS,
    LABELS,
    SPACE_LABELS,
    ForecastImage,
    ScanName,
    forecast_images,
    labels_of,
    volume_descriptions,
    volume_images,
)
from tumorcast.archive.integrity import read_seal
from tumorcast.archive.maps import FORMAT, FORMAT_VERSION, MapArchive, PatientForecast, SliceForecast, VolumeForecast
from tumorcast.archive.nifti import CubicPlacement, Place, Placement, Space, write_nifti
from tumorcast.archive.verify import refuse_broken
from tumorcast.data.cohort import Cohort
from tumorcast.data.native import BENT, NATIVE, NativeImage, native_image
from tumorcast.durable import write_text
from tumorcast.errors import EngineError, InputError, StorageError, UsageError
from tumorcast.provenance import difference
from tumorcast.records import Contrast, PatientOutcome, Status
from tumorcast.version import VERSION

BIDS_VERSION = "1.10.1"
DESCRIPTION = "dataset_description.json"
RECORD_KEY = "Tumorcast"
README = """# Forecasts of tumour growth, by tumorcast

Derivatives in BIDS of an archive of forecasts (`maps.h5`). **For research. Not a medical device.**
Images with `desc-forecast` are synthetic.

- `*_label-tumor_probseg`: the probability of tumour at the time aimed at.
- `*_label-change_probseg`: the share of the ensemble that changed.
- `space-orig`: on the voxels of the scan. `space-cohort`: on the pixels of the forecast, with every slice of the scan.
- Only the slices in `desc-covered_mask` were forecast. Elsewhere a 0 says nothing.
- `desc-volume…`: of the whole tumour, on cubic voxels, where the archive has it; `desc-volume90d`: 90 days ahead, the
  probability of tumour (`probseg`) and its outline (`mask`).
- Each sidecar tells the units, the model and the archive by their SHA-256, and the days.
"""
PARTICIPANTS = {"cohort_id": {"Description": "The patient's name in the cohort file and the archive."}}
SESSIONS = {
    "day": {"Description": "Day of the scan on the patient's own clock.", "Units": "day"},
    "target_day": {
        "Description": "Day that the forecast is for; n/a where a change of size was asked for.",
        "Units": "day",
    },
}


@dataclass(frozen=True)
class Export:
    """An export: from which archive, to which folder, in which spaces; labels: of BIDS, by patient.

    volumes: whether a patient has growth maps in three dimensions.
    """

    maps: Path
    folder: Path
    spaces: tuple[Space, ...]
    cohort: Path | None
    archive_sha256: str
    provenance: dict[str, Any] = field(repr=False)
    labels: Mapping[str, str] = field(repr=False)
    volumes: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the forecast."""
        return dict(self.provenance.get("settings", {}))

    @property
    def identity(self) -> dict[str, Any]:
        """What another export into the same folder must have in common with this one."""
        cohort = None if self.cohort is None else self.provenance["cohort_sha256"]
        return {
            "ArchiveSha256": self.archive_sha256,
            "CohortSha256": cohort,
            "Spaces": [str(space) for space in self.spaces],
        }


def export_bids(
    maps: Path,
    folder: Path,
    *,
    spaces: Sequence[Space] = tuple(Space),
    cohort: Path | None = None,
    jobs: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[PatientOutcome]:
    """Write an archive as a BIDS data set into a new or empty folder, or into that of the same export.

    cohort: the cohort file that the forecast was made of; with it sidecars tell the sums of the scan's files, and the
    windows of its intensities, and scans that were bent find home.
    Returns how each patient of the run fared. Raises UsageError if the folder holds something else, InputError if the
    archive or the cohort cannot be used, StorageError if the folder cannot be written.
    """
    refuse_broken(maps)
    with MapArchive.open(maps) as archive:
        outcomes, patient_ids, provenance = archive.outcomes(), archive.patient_ids(), archive.provenance
        volumes = any(archive.has_volume(patient_id) for patient_id in patient_ids)
    seal, labels = (read_seal(maps, FORMAT, FORMAT_VERSION) or {})["sha256"], labels_of(patient_ids, "sub")
    export = Export(maps, folder, tuple(spaces), cohort, seal, provenance, labels, volumes)
    _check_cohort(export)
    _claim(export)
    done = {outcome.patient_id: outcome for outcome in _written(export, patient_ids, jobs, report)}
    _write_tables(export, [name for name in patient_ids if done[name].status is Status.OK])
    return [done.get(outcome.patient_id, _without(outcome)) for outcome in outcomes]


def _without(outcome: PatientOutcome) -> PatientOutcome:
    """What becomes of a patient that the archive has no maps of."""
    return PatientOutcome(outcome.patient_id, Status.SKIPPED, f"has no maps ({outcome.status}: {outcome.reason})")


def _check_cohort(export: Export) -> None:
    if export.cohort is None:
        return
    with Cohort.open(export.cohort) as cohort:
        given, wanted = cohort.sha256, export.provenance.get("cohort_sha256")
    if given != wanted:
        raise InputError(
            f"{export.cohort}: its SHA-256 is {given[:12]}…, and {export.maps} was made of {str(wanted)[:12]}…; "
            "give the cohort file of the forecast, or leave --cohort out"
        )


def _claim(export: Export) -> None:
    """Make the folder, or refuse one that is not of this export; its description comes first, as the claim."""
    description = export.folder / DESCRIPTION
    if export.folder.exists() and not export.folder.is_dir():
        raise UsageError(f"--bids {export.folder}: is a file; give a folder")
    if export.folder.is_dir() and any(export.folder.iterdir()):
        differs = difference(_recorded_in(description), export.identity)
        if differs is not None:
            raise UsageError(f"--bids {export.folder}: not empty and not of this export ({differs}); give a new folder")
    write_text(description, _json(_description(export)))


def _recorded_in(description: Path) -> dict[str, Any]:
    """The identity of the export that a data set was written by; nothing if it is not ours."""
    try:
        record = json.loads(description.read_text(encoding="utf-8"))[RECORD_KEY]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return record if isinstance(record, dict) else {}


def _description(export: Export) -> dict[str, Any]:
    return {
        "Name": "Forecasts of tumour growth",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "tumorcast", "Version": VERSION, "Description": "tumorcast export-maps"}],
        "HowToAcknowledge": "Cite tumorcast and the paper of its method. For research, not a medical device.",
        "ReferencesAndLinks": ["https://arxiv.org/abs/2509.09610"],
        RECORD_KEY: {**export.identity, "Forecast": export.provenance},
    }


def _written(
    export: Export, patient_ids: Sequence[str], jobs: int, report: Callable[[int, int], None]
) -> Iterable[PatientOutcome]:
    """How each patient fared, as they are written, in `jobs` processes."""
    if jobs == 1 or len(patient_ids) < 2:
        for done, patient_id in enumerate(patient_ids, start=1):
            yield _outcome(export, patient_id)
            report(done, len(patient_ids))
        return
    pool = ProcessPoolExecutor(min(jobs, len(patient_ids)), mp_context=get_context("spawn"))
    try:
        tried = pool.map(_outcome, [export] * len(patient_ids), patient_ids)
        for done, outcome in enumerate(tried, start=1):
            yield outcome
            report(done, len(patient_ids))
    except BrokenProcessPool:
        raise EngineError("a process was killed, perhaps for want of memory; start again with fewer --jobs") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(export: Export, patient_id: str) -> PatientOutcome:
    try:
        _write_patient(export, patient_id)
    except StorageError:
        raise
    except InputError as fault:
        return PatientOutcome(patient_id, Status.FAILED, str(fault))
    return PatientOutcome(patient_id, Status.OK)


def _write_patient(export: Export, patient_id: str) -> None:
    """Write a patient's images with their sidecars, and the table of sessions. Raises InputError before any file."""
    with MapArchive.open(export.maps) as archive:
        patient, slices, volume = archive.patient(patient_id), archive.slices(patient_id), archive.volume(patient_id)
    known = _known_of(export, patient)
    scan = ScanName(export.labels[patient_id], labels_of([patient.session_id], "ses")[patient.session_id])
    contrasts = [Contrast(name) for name in export.provenance["contrasts"]]
    if slices:
        place = Placement.of(patient_id, patient.source_grid, slices, known.home)
        common = _common(export, patient) | _of_slices(slices) | known.sidecar
        _write_images(export, scan, place, forecast_images(slices, contrasts), common)
    if volume is not None:
        cubes = CubicPlacement.of(patient_id, patient.source_grid, volume, known.home)
        common = _common(export, patient) | _of_volume(export, volume) | known.sidecar
        _write_images(export, scan, cubes, volume_images(patient.day, volume, contrasts), common)
    row = [
        f"ses-{scan.session}",
        f"{patient.day:g}",
        "n/a" if patient.target_day is None else f"{patient.target_day:g}",
    ]
    write_text(Path(f"{export.folder / scan.sessions}.json"), _json(SESSIONS))
    write_text(Path(f"{export.folder / scan.sessions}.tsv"), _table(("session_id", *SESSIONS), [row]))


def _write_images(
    export: Export, scan: ScanName, place: Place, images: Iterable[ForecastImage], common: dict[str, Any]
) -> None:
    """Write images in every space, with their sidecars; what is told of an image itself overrules what is `common`."""
    for image in images:
        for space in export.spaces:
            path = export.folder / scan.file(image.before, f"space-{SPACE_LABELS[space]}", *image.after)
            sidecar = image.sidecar | _of_space(export, scan, image, space) | common | image.sidecar
            write_nifti(Path(f"{path}.nii.gz"), place.volume(space, image.values, image.outside, image.interpolation))
            write_text(Path(f"{path}.json"), _json(sidecar))


def _common(export: Export, patient: PatientForecast) -> dict[str, Any]:
    """What all sidecars of a scan say: days, what was asked for, and what the forecast was made of."""
    settings = export.settings
    return {
        "Day": patient.day,
        "TargetDay": patient.target_day,
        "HorizonDays": settings.get("horizon_days"),
        "RelativeChange": settings.get("relative_change"),
        "ChangeThreshold": settings.get("change_threshold"),
        "Seed": settings.get("seed"),
        "ModelSha256": export.provenance.get("model_sha256"),
        "ArchiveSha256": export.archive_sha256,
    }


def _of_slices(slices: Sequence[SliceForecast]) -> dict[str, Any]:
    """What sidecars say of the slices: members, and areas."""
    return {
        "Members": len(slices[0].aimed_mm2),
        "Slices": [
            {
                "SourceSlice": int(forecast.source_slice),
                "PresentAreaMm2": float(forecast.present_mm2),
                "AimedAreaMm2": float(np.median(forecast.aimed_mm2)),
                "ReachedAreaMm2": float(np.median(forecast.reached_mm2)),
            }
            for forecast in slices
        ],
    }


def _of_volume(export: Export, volume: VolumeForecast) -> dict[str, Any]:
    """What sidecars say of a volume: members, and what foretold the place; a threshold of changed pixels it has not."""
    place = export.provenance.get("place") or {}
    members = volume.target_ratio.shape[1]
    return {"Members": members, "Place": volume.model, "PlaceSha256": place.get("sha256"), "ChangeThreshold": None}


@dataclass(frozen=True)
class ScanSource:
    """What is known of a patient's scan: for the sidecars, and its way home, None where it did not move."""

    sidecar: dict[str, Any]
    home: NativeImage | None


def _known_of(export: Export, patient: PatientForecast) -> ScanSource:
    """The sums of the scan's files, the window of each contrast's intensities, and the way to the scanner's voxels.

    The archive alone tells that way, but for a scan that was bent. Raises InputError for one where it is wanted.
    """
    if export.cohort is None:
        return ScanSource({}, _way_home_of_archive(patient) if Space.NATIVE in export.spaces else None)
    with Cohort.open(export.cohort) as cohort:
        source = cohort.source(patient.patient_id, patient.session_id)
        displacement = cohort.displacement(patient.patient_id, patient.session_id)
    sidecar = {"SourceSha256": source.get("files", {}), "IntensityWindows": source.get("windows", {})}
    home = native_image(source, displacement=displacement) if NATIVE in source else None
    return ScanSource(sidecar, home)


def _way_home_of_archive(patient: PatientForecast) -> NativeImage | None:
    way = patient.source_grid.get(NATIVE)
    if way is None:
        return None
    if way[BENT]:
        raise InputError(
            f"{patient.patient_id}: its scan was bent onto the patient's first, and only the cohort file tells how; "
            "give --cohort, or --space cohort"
        )
    return NativeImage.from_dict(way)


def _of_space(export: Export, scan: ScanName, image: ForecastImage, space: Space) -> dict[str, Any]:
    """Where the voxels lie, and of which image in the data set this one is another sampling."""
    if space is Space.COHORT:
        brain = scan.file(f"space-{SPACE_LABELS[space]}", image.reference, "mask")
        return {"SpatialReference": f"bids::{brain.as_posix()}.nii.gz"}
    if Space.COHORT not in export.spaces:
        return {"SpatialReference": "orig"}
    first = scan.file(image.before, f"space-{SPACE_LABELS[Space.COHORT]}", *image.after)
    return {"SpatialReference": "orig", "Sources": [f"bids::{first.as_posix()}.nii.gz"]}


def _write_tables(export: Export, patient_ids: Sequence[str]) -> None:
    """Write what the data set says of all of its patients and files."""
    root = export.folder
    rows = [(f"sub-{export.labels[name]}", name) for name in patient_ids]
    horizons = [
        days for days in (export.settings.get("horizon_days"), *export.settings.get("later_horizons", ())) if days
    ]
    descriptions = DESCRIPTIONS | (volume_descriptions(horizons) if export.volumes else {})
    described = [(f"desc-{name}", description) for name, description in descriptions.items()]
    write_text(root / "README.md", README)
    write_text(root / "participants.json", _json(PARTICIPANTS))
    write_text(root / "participants.tsv", _table(("participant_id", *PARTICIPANTS), rows))
    write_text(root / "descriptions.tsv", _table(("desc_id", "description"), described))
    write_text(root / "desc-present_dseg.tsv", _table(("index", "name"), LABELS.items()))


def _json(record: Mapping[str, Any]) -> str:
    """As JSON that BIDS takes: what is not known is left out."""
    return (
        json.dumps({key: value for key, value in record.items() if value is not None}, indent=2, ensure_ascii=False)
        + "\n"
    )


def _table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in (header, *rows))
