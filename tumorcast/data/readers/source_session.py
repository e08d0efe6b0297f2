"""What readers of layouts find: which file of a scan is which contrast, of which day. None has been opened yet."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from tumorcast.data.readers.files import LeftOut
from tumorcast.data.readers.labels import ANY, LabelRule, rule_of
from tumorcast.data.readers.names import UnmatchedRow
from tumorcast.records import Contrast

SEG = "seg"
# Of files that are named as scans are; of these .nii and .nii.gz are read, the others are refused by name.
IMAGE_END = r"\.(nii(\.gz)?|hdr|mha|mhd|nrrd|mgz|mgh)"
ONLY_SESSION = "000"


@dataclass(frozen=True)
class SliceFiles:
    """The files of one 2D slice; `number` is its index in the volume it was cut from."""

    number: int
    images: dict[Contrast, Path]
    mask: Path | None


@dataclass(frozen=True)
class SourceSession:
    """The files of one scan of one patient, as a reader found them (nothing has been opened yet).

    day: days on the patient's own clock; mask: the tumour labels, None where the source has none.
    dated: False where the layout has no date of it; `day` then counts the patient's scans 0, 1, 2 ….
    fault: why the scan cannot be used; day_fault: why it cannot, unless a clinical table dates it. Empty where all is
    well.
    labels: what the mask's labels may mean; labels_given: whether a table says so for this scan.
    slices: of a scan that lies on disk slice by slice, in the order of slice numbers. `images` then holds the first
    slice's files of the contrasts that every slice has, `mask` the first slice's mask if every slice has one, so that
    both say what the whole session has.
    """

    patient_id: str
    session_id: str
    day: float
    images: dict[Contrast, Path]
    mask: Path | None
    dated: bool = True
    fault: str = ""
    day_fault: str = ""
    labels: LabelRule = ANY
    labels_given: bool = False
    slices: tuple[SliceFiles, ...] = ()

    @classmethod
    def of_files(cls, patient: str, session: str, files: Mapping[str, Path]) -> "SourceSession":
        """A scan of these files, by contrast and `seg`; undated until a day is put in."""
        images = {contrast: files[contrast] for contrast in Contrast if contrast in files}
        rule = rule_of(patient.removeprefix("sub-"))
        return cls(patient, session, 0.0, images, files.get(SEG), dated=False, labels=rule)


@dataclass
class LayoutFiles:
    """What a reader found: scans, the other files that it read or passed over, and rows of tables that fit no scan.

    root: the folder whose files are accounted for, where it is not the source.
    """

    sessions: Sequence[SourceSession] = ()
    taken: set[Path] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)
    unmatched: list[UnmatchedRow] = field(default_factory=list)
    root: Path | None = None


def counted(sessions: Iterable[SourceSession]) -> list[SourceSession]:
    """Each patient's scans in the order of their names, counted 0, 1, 2 …: a layout without dates has no days."""
    ordered = sorted(sessions, key=lambda session: (session.patient_id, in_time(session.session_id)))
    return [
        replace(session, day=float(ordinal), dated=False)
        for _, group in groupby(ordered, key=lambda session: session.patient_id)
        for ordinal, session in enumerate(group)
    ]


def in_time(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """A key that sorts names of time points: what was before treatment first, then by the values of their numbers.

    >>> sorted(["time10", "post", "time2", "pre"], key=in_time)
    ['pre', 'post', 'time2', 'time10']
    """
    return re.match(r"pre|base|bl", name, re.IGNORECASE) is None, natural(name)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value.

    >>> sorted(["ses-10", "ses-9", "baseline"], key=natural)
    ['baseline', 'ses-9', 'ses-10']
    """
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def several_masks(mask: Path, other: Path) -> str:
    """The fault of a scan with more than one mask."""
    return f"{mask}: {other.name} is a tumour mask of the same scan; keep one, or name the files in a sessions.csv"
