"""A blinded reader study: real later slices and generated ones, shuffled, to be told apart; and the readers' score.

What readers get is the folder `set`: pictures, a sheet and a README, without names, dates and outlines. The key stays
beside it. Every row of the sheet bears the key's SHA-256, so a key that is changed later does not belong to the sheets
any more; a random salt in the key keeps it from being found by trying out keys.
"""

import csv
import hashlib
import itertools
import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, mannwhitneyu

from tumorcast.archive.maps import MapArchive, PatientForecast
from tumorcast.counted import counted
from tumorcast.data.cohort import Cohort, SessionInfo
from tumorcast.durable import sha256_of, write_text, written_whole
from tumorcast.errors import InputError, UsageError
from tumorcast.tables import Row, read_table

log = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "tumorcast-reader-study", 1
SET, KEY, SHEET, README = "set", "key.json", "sheet.csv", "README.txt"
NUMBER, ANSWER, CONFIDENCE, COMMENT, SUM = COLUMNS = (
    "number",
    "real_or_generated",
    "confidence",
    "comment",
    "key_sha256",
)
SCAN, MEAN = "scan", "mean"  # what a picture shows, where it is no member
SUREST = 5
LEAST_SIDE = 384  # pixels of a contrast's picture, so that a reader need not enlarge it
GRID_MM = 0.5  # two scans are on one grid if no corner of a slice is further from its fellow
CONFIDENCE_LEVEL = 0.95

INSTRUCTIONS = """Real or generated?

Each of the {count} pictures shows one slice of a brain, in the contrasts {contrasts} from left to right, all in one
grey scale. Some were taken by a scanner, the others were made by a computer. Judge each by itself, in the order of the
numbers.

Fill in sheet.csv, a row a picture:
  number              the picture's: 1 is 001.png. Leave it as it is.
  real_or_generated   real, or generated. Leave none blank: guess if you must.
  confidence          1 (a guess) to 5 (certain), whole numbers.
  comment             what made you think so; may stay blank.
  key_sha256          seals the key. Leave it as it is.
Save it as CSV, separated by commas, and send it back. Do not talk with other readers before.
"""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Item = TypeVar("Item")


class Origin(StrEnum):
    """Where a picture is from; also the two answers of a reader."""

    REAL = "real"
    GENERATED = "generated"


@dataclass(frozen=True)
class Choice:
    """A slice that can be shown. session: the later scan of a real one, the scan forecast from of a generated one."""

    origin: Origin
    patient_id: str
    session_id: str
    source_slice: int


@dataclass(frozen=True)
class Offer:
    """What one patient has to show: (generated, real) of one slice, and slices that have no fellow."""

    pairs: list[tuple[Choice, Choice]]
    generated: list[Choice]
    real: list[Choice]


def make_study(maps: Path, truth: Path, out: Path, *, seed: int, count: int) -> dict[str, Any]:
    """Write `out`/set for the readers and `out`/key.json; returns how many pictures, pairs and patients it has.

    count: of pictures, half of them real. Raises UsageError if `out` holds something or `count` is odd, InputError if
    archive and cohort do not fit each other or have too few slices.
    """
    if count < 2 or count % 2:
        raise UsageError(f"--count {count}: half of the pictures are real; give an even number from 2")
    _check_empty(out)
    rng = np.random.default_rng(seed)
    with MapArchive.open(maps) as archive, Cohort.open(truth) as cohort:
        _check_same_images(archive, cohort)
        with_images = [name for name in archive.patient_ids() if archive.slice_names(name)]
        if not with_images:
            raise InputError(f"{maps}: holds growth maps alone, and a study shows images; forecast without --maps-only")
        offers = [_offer(archive, cohort, archive.patient(name)) for name in with_images]
        chosen, pairs = _chosen(offers, count // 2, rng, truth)
        items = _draw(archive, cohort, chosen, out / SET, rng)
        contrasts = [str(name) for name in cohort.contrasts]
        provenance = {"seed": seed, "maps_sha256": sha256_of(maps), "truth_sha256": cohort.sha256}
    key = {"format": FORMAT, "version": FORMAT_VERSION, "salt": secrets.token_hex(32), **provenance, "items": items}
    write_text(out / KEY, json.dumps(key, indent=1) + "\n")
    write_text(out / SET / README, INSTRUCTIONS.format(count=count, contrasts=", ".join(contrasts)))
    _write_sheet(out / SET / SHEET, count, sha256_of(out / KEY))
    if any(item["image"] == MEAN for item in items):
        log.warning(
            "%s: holds no members, so means are shown, which are smoother than a scan; forecast with --keep-members",
            maps,
        )
    patients = len({choice.patient_id for choice in chosen})
    return {"pictures": count, "pairs": pairs, "patients": patients, "key_sha256": sha256_of(out / KEY)}


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: not an empty folder; give another, since sheets belong to one key for good")


def _check_same_images(archive: MapArchive, cohort: Cohort) -> None:
    contrasts, there = [str(name) for name in cohort.contrasts], archive.provenance["contrasts"]
    if contrasts != there:
        raise InputError(
            f"{cohort.path}: has {', '.join(contrasts)}, but {archive.path} has {', '.join(there)}; "
            "prepare the cohort with --contrasts to match"
        )
    if not set(cohort.patient_ids()) & set(archive.patient_ids()):
        raise InputError(f"{cohort.path}: has no patient of {archive.path}; give a cohort of later scans of the same")


def _offer(archive: MapArchive, cohort: Cohort, patient: PatientForecast) -> Offer:
    numbers = [int(name) for name in archive.slice_names(patient.patient_id)]
    forecast = [Choice(Origin.GENERATED, patient.patient_id, patient.session_id, number) for number in numbers]
    later = _later_scan(cohort, patient)
    if later is None:
        return Offer([], forecast, [])
    name = later.id
    shown = {
        int(number): Choice(Origin.REAL, patient.patient_id, name, int(number))
        for number, area in zip(later.source_slice, later.area_mm2, strict=True)
        if area > 0 or int(number) in numbers
    }
    matched = set(numbers) & set(shown) if _on_one_grid(archive, cohort, patient, later) else set()
    return Offer(
        [(slice_, shown[slice_.source_slice]) for slice_ in forecast if slice_.source_slice in matched],
        [slice_ for slice_ in forecast if slice_.source_slice not in matched],
        [slice_ for number, slice_ in shown.items() if number not in matched],
    )


def _later_scan(cohort: Cohort, patient: PatientForecast) -> SessionInfo | None:
    """The scan nearest to the day forecast, or the first one, of those after the scan that was forecast from."""
    if patient.patient_id not in cohort.patient_ids():
        return None
    later = [info for info in cohort.sessions(patient.patient_id) if info.day > patient.day and info.n_slices]
    aim = patient.day if patient.target_day is None else patient.target_day
    return min(later, key=lambda info: abs(info.day - aim), default=None)


def _on_one_grid(archive: MapArchive, cohort: Cohort, patient: PatientForecast, later: SessionInfo) -> bool:
    """Whether a slice of one number lies at one place in both scans; also checks that the images are of one size."""
    forecast = archive.slice(patient.patient_id, archive.slice_names(patient.patient_id)[0])
    side = forecast.image.shape[-1]
    if side != cohort.image_size:
        raise InputError(
            f"{cohort.path}: slices of {cohort.image_size} pixels, but {archive.path} has {side}; "
            f"prepare the cohort with --image-size {side}"
        )
    numbers = (0, int(later.source_slice.max()))
    corners = np.array([[*corner, 1.0] for corner in itertools.product((0, side - 1), (0, side - 1), numbers)])
    apart = corners @ (forecast.affine - cohort.slice(patient.patient_id, later.id, 0).affine).T
    return bool(np.abs(apart).max() <= GRID_MM)


def _chosen(offers: Sequence[Offer], half: int, rng: np.random.Generator, truth: Path) -> tuple[list[Choice], int]:
    """`half` slices of each kind in random order, pairs before others, patients by turns; and how many pairs."""
    pairs = _by_turns([offer.pairs for offer in offers], rng)[:half]
    generated, real = (_by_turns([getattr(offer, kind) for offer in offers], rng) for kind in ("generated", "real"))
    most = len(pairs) + min(len(generated), len(real))
    if most < half:
        raise InputError(
            f"{truth}: with the forecasts, {most} real and {most} generated slices can be shown, and {half} of each "
            f"are wanted; give --count {2 * most}"
            if most
            else f"{truth}: no scan is later than the one that was forecast from; give a cohort with later scans"
        )
    rest = half - len(pairs)
    chosen = [*itertools.chain.from_iterable(pairs), *generated[:rest], *real[:rest]]
    return _shuffled(chosen, rng), len(pairs)


def _by_turns(lists: Sequence[list[Item]], rng: np.random.Generator) -> list[Item]:
    """All items in random order, one of each list, then a second one of each that has more …"""
    shuffled = [_shuffled(items, rng) for items in _shuffled(lists, rng)]
    return [item for turn in itertools.zip_longest(*shuffled) for item in turn if item is not None]


def _shuffled(items: Sequence[Item], rng: np.random.Generator) -> list[Item]:
    return [items[number] for number in rng.permutation(len(items))]


def _draw(
    archive: MapArchive, cohort: Cohort, chosen: Sequence[Choice], folder: Path, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Write the pictures; returns the key's record of each."""
    from matplotlib.image import imsave  # noqa: PLC0415 - slow, and not needed to score

    items = []
    for number, choice in enumerate(chosen, start=1):
        image, brain, kind = _image_of(archive, cohort, choice, rng)
        path = folder / f"{number:03d}.png"
        with written_whole(path) as temporary:
            imsave(temporary, picture(image, brain), cmap="gray", vmin=0, vmax=1, format="png")
        items.append({"number": number, **vars(choice), "image": kind, "sha256": sha256_of(path)})
    return items


def _image_of(
    archive: MapArchive, cohort: Cohort, choice: Choice, rng: np.random.Generator
) -> tuple[npt.NDArray[Any], Bools, str]:
    """The slice, its brain, and what it is: the scan, a member by number, or the mean."""
    if choice.origin is Origin.REAL:
        infos = {info.id: info for info in cohort.sessions(choice.patient_id)}
        index = int(np.flatnonzero(infos[choice.session_id].source_slice == choice.source_slice)[0])
        scan = cohort.slice(choice.patient_id, choice.session_id, index)
        return scan.image, scan.brain, SCAN
    forecast = archive.slice(choice.patient_id, f"{choice.source_slice:04d}")
    if forecast.members is None:
        return forecast.mean, forecast.brain, MEAN
    member = int(rng.integers(len(forecast.members)))
    return forecast.members[member], forecast.brain, f"member {member}"


def picture(image: npt.NDArray[Any], brain: Bools) -> npt.NDArray[np.float64]:
    """Contrasts side by side, black 0 to white 1. image: (C, H, W) in [-1, 1]; brain: (H, W).

    Outside the brain all is black, real or generated, so that the noise of air tells nothing. Pixels are repeated.
    """
    grey = np.where(brain, np.clip((image.astype(np.float64) + 1) / 2, 0, 1), 0.0)
    times = -(-LEAST_SIDE // image.shape[-1])
    return np.concatenate([np.kron(image, np.ones((times, times))) for image in grey], axis=1)


def _write_sheet(path: Path, count: int, key_sum: str) -> None:
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([number, "", "", "", key_sum] for number in range(1, count + 1))


@dataclass(frozen=True)
class Key:
    """A study's key. sha256: of the file; generated: (N,) whether picture 1, 2 … was generated."""

    path: Path
    sha256: str
    generated: Bools

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises InputError if it is missing or no key."""
        try:
            content = path.read_bytes()
        except OSError as fault:
            raise InputError(f"{path}: cannot be read ({fault.strerror}); give the key.json of the study") from None
        try:
            record = json.loads(content)
            if (record["format"], record["version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError
            origins = {int(item["number"]): Origin(item["origin"]) for item in record["items"]}
            generated = np.array([origins[number] is Origin.GENERATED for number in range(1, len(origins) + 1)])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}: not the key of a reader study of version {FORMAT_VERSION}; give its key.json"
            ) from None
        return cls(path, hashlib.sha256(content).hexdigest(), generated)


@dataclass(frozen=True)
class Reading:
    """A filled sheet, in the order of the pictures. generated: (N,) the answers; confidence: (N,) 1 … SUREST."""

    sheet: Path
    generated: Bools
    confidence: Ints

    @classmethod
    def read(cls, path: Path, key: Key) -> Self:
        """Raises InputError, naming the line, for rows that are missing, wrong or twice, or of another key."""
        answers_by_number: dict[int, tuple[bool, int]] = {}
        for row in read_table(path, (NUMBER, ANSWER, CONFIDENCE, SUM), (COMMENT,)):
            _check_sealed(row, key)
            number = _whole(row, NUMBER, len(key.generated))
            if number in answers_by_number:
                raise InputError(f"{row.where}: picture {number} has a row already; leave one")
            answers_by_number[number] = _answer(row) is Origin.GENERATED, _whole(row, CONFIDENCE, SUREST)
        missing = [str(number) for number in range(1, len(key.generated) + 1) if number not in answers_by_number]
        if missing:
            raise InputError(
                f"{path}: {len(missing)} of {counted(len(key.generated), 'picture')} without a row "
                f"({', '.join(missing[:5])}"
                f"{' …' if len(missing) > 5 else ''}); the reader must judge each"
            )
        answers, confidence = zip(*(answers_by_number[number] for number in sorted(answers_by_number)), strict=True)
        return cls(path, np.array(answers), np.array(confidence))


def _check_sealed(row: Row, key: Key) -> None:
    sealed_with = row.filled(SUM)
    if sealed_with != key.sha256:
        raise InputError(
            f"{row.where}: sealed with key {sealed_with[:12]}…, but {key.path} is {key.sha256[:12]}…: the key is of "
            "another study, or was changed; give the sheet's own"
        )


def _whole(row: Row, column: str, most: int) -> int:
    row.filled(column)
    value = row.number(column) or 0.0
    if not (value.is_integer() and 1 <= value <= most):
        raise InputError(
            f"{row.where}: '{column}' is {row.text(column)!r}, not a whole number from 1 to {most}; correct it"
        )
    return int(value)


def _answer(row: Row) -> Origin:
    text = row.filled(ANSWER).lower()
    if text not in list(Origin):
        raise InputError(f"{row.where}: '{ANSWER}' is {row.text(ANSWER)!r}; give {' or '.join(Origin)}")
    return Origin(text)


def score_study(key: Path, sheets: Sequence[Path]) -> dict[str, Any]:
    """Figures a reader, and the agreement of several. Raises as Key.read and Reading.read; UsageError for one twice."""
    places = [sheet.resolve() for sheet in sheets]
    twice = next((sheet for sheet, place in zip(sheets, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice}: given twice; give each reader's sheet once")
    right = Key.read(key)
    readings = [Reading.read(sheet, right) for sheet in sheets]
    answers = np.array([reading.generated for reading in readings])
    agreement = None
    if len(readings) > 1:
        name, kappa = ("cohen_kappa", cohen_kappa) if len(readings) == 2 else ("fleiss_kappa", fleiss_kappa)
        agreement = {"name": name, "kappa": kappa(answers)}
    figures = [{"sheet": str(reading.sheet), **reader_figures(reading, right.generated)} for reading in readings]
    return {"pictures": len(right.generated), "readers": figures, "agreement": agreement}


def reader_figures(reading: Reading, generated: Bools) -> dict[str, Any]:
    """Accuracy, sensitivity (generated ones called so) and specificity (real ones called so), with Wilson intervals.

    auc: the chance that a generated picture is more surely called generated than a real one, ties counting half
    (Mann and Whitney 1947); answers are ordered from a certain real to a certain generated.
    """
    right = reading.generated == generated
    surely = np.where(reading.generated, reading.confidence, -reading.confidence)
    figures: dict[str, Any] = {}
    for name, of in (("accuracy", np.ones_like(right)), ("sensitivity", generated), ("specificity", ~generated)):
        figures |= dict(zip((name, f"{name}_95"), _share(right[of]), strict=True))
    pairs = int(generated.sum()) * int((~generated).sum())
    return figures | {"auc": float(mannwhitneyu(surely[generated], surely[~generated]).statistic) / pairs}


def _share(hits: Bools) -> tuple[float, list[float]]:
    """The share of hits and its interval (Wilson 1927)."""
    interval = binomtest(int(hits.sum()), hits.size).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return float(hits.mean()), [float(interval.low), float(interval.high)]


def cohen_kappa(answers: Bools) -> float | None:
    """Agreement of two readers beyond chance (Cohen 1960). answers: (2, N). None where chance alone agrees always.

    >>> cohen_kappa(np.array([[True, True, False, False], [True, False, False, False]]))
    0.5
    """
    rates = answers.mean(axis=1)
    return _beyond(float((answers[0] == answers[1]).mean()), float(rates.prod() + (1 - rates).prod()))


def fleiss_kappa(answers: Bools) -> float | None:
    """Agreement of R readers beyond chance (Fleiss 1971). answers: (R, N). None where chance alone agrees always.

    >>> fleiss_kappa(np.array([[True, False], [True, False], [True, False]]))
    1.0
    """
    readers, positive = len(answers), answers.sum(axis=0)
    agreeing = (positive * (positive - 1) + (readers - positive) * (readers - positive - 1)) / (readers * (readers - 1))
    share = float(answers.mean())
    return _beyond(float(agreeing.mean()), share**2 + (1 - share) ** 2)


def _beyond(observed: float, by_chance: float) -> float | None:
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)
