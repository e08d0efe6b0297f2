"""The files below a source: what there is, which have no content here, which were taken, and why the others were not.

Links are followed, each folder once.
"""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

DEBRIS = (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX")
IMAGES = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".mnc", ".dcm", ".ima")
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".icloud", ".lnk")
PACKED = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".dcm.gz", ".nii.bz2", ".nii.zst", ".nii.xz")
NAMED_AT_MOST = 10  # files of one reason and patient that are named
LARGEST_VOXELS = 2**29  # of an image, 800 cubed: no scanner makes more, and a header that says more is damaged
POINTERS = {  # how the text begins, and what fetches the content
    b"version https://git-lfs": ("a Git LFS pointer", "git lfs pull"),
    b"/annex/objects/": ("a git-annex pointer", "datalad get"),
    b"../.git/annex/objects/": ("a git-annex pointer", "datalad get"),
}
LONGEST_POINTER = 32 * 1024


def folders_in(place: Path) -> list[Path]:
    """The folders in a folder, by name; hidden ones are left out."""
    if not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file of that name; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_named_file(path: Path) -> bool:
    """Whether a file bears the name, be it a link to one that is not here: reading it says so."""
    return is_file(path) or is_dangling(path)


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; False for a name that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_dangling(path: Path) -> bool:
    """Whether it is a link whose target is not there; False for a name that no file can have."""
    try:
        return path.is_symlink() and not path.exists()
    except (OSError, ValueError):
        return False


def why_absent(path: Path) -> str:
    """Why a file has no content here and what fetches it, as a message; empty where it has, or is not at all."""
    if is_dangling(path):
        annexed = ".git/annex/objects" in path.readlink().as_posix()
        remedy = (
            f"datalad get {path}" if annexed else "correct the link, or copy the file here (datalad get, if DataLad's)"
        )
        return f"{path}: a link to a file that is not here{' (git-annex)' if annexed else ''}; {remedy}"
    try:
        if not path.is_file() or path.stat().st_size > LONGEST_POINTER:
            return ""
        if path.stat().st_size == 0:
            return f"{path}: is empty (0 bytes); copy it again"
        with path.open("rb") as file:
            start = file.read(max(map(len, POINTERS)))
    except (OSError, ValueError):
        return ""
    for words, (what, command) in POINTERS.items():
        if start.startswith(words):
            return f"{path}: is {what}, its content is not here; fetch it: {command} {path}"
    return ""


@dataclass(frozen=True)
class LeftOut:
    """A file that was not taken. lost: whether what it holds may have been meant to be read, and could not be."""

    path: Path
    reason: str
    lost: bool = False


def is_debris(path: Path) -> bool:
    """Whether an operating system left it: `._scan.nii.gz`, `.DS_Store`.

    >>> is_debris(Path("a/._b.nii.gz")), is_debris(Path("__MACOSX/b.nii")), is_debris(Path("b.nii"))
    (True, True, False)
    """
    return path.name.startswith("._") or any(part in DEBRIS for part in path.parts)


def files_below(source: Path) -> Iterator[Path | LeftOut]:
    """Every file, and every folder that was seen under another name and is left out. Hidden folders are not entered."""
    seen: dict[Path, Path] = {}
    for folder, below, names in os.walk(source, followlinks=True):
        parent = Path(folder)
        seen.setdefault(parent.resolve(), parent)
        entered = []
        for name in sorted(below):
            target = (parent / name).resolve()
            if target in seen:
                yield LeftOut(parent / name, f"is the same folder as {seen[target]}, which was read")
            elif not name.startswith(".") and name not in DEBRIS:
                seen[target] = parent / name
                entered.append(name)
        below[:] = entered
        yield from (parent / name for name in sorted(names))


def account(
    source: Path, taken: Collection[Path], known: Collection[LeftOut], reason: str, *, is_dicom: Callable[[Path], bool]
) -> tuple[LeftOut, ...]:
    """Every file below `source` that was not taken.

    known: those whose reason the reader gave; reason: that of images which it passed over.
    """
    known_paths = {left.path for left in known}
    others = []
    for item in files_below(source) if source.is_dir() else ():
        if isinstance(item, LeftOut):
            others.append(item)
        elif item not in taken and item not in known_paths:
            others.append(_judged(item, reason, is_dicom))
    return tuple(sorted([*known, *others], key=lambda left: left.path))


def _judged(path: Path, reason: str, is_dicom: Callable[[Path], bool]) -> LeftOut:
    name = path.name.lower()
    if is_debris(path):
        return LeftOut(path, "left by the operating system")
    if any(name.endswith(end) for end in PACKED):
        return LeftOut(path, "packed: unpack it beside the others", lost=True)
    is_image = any(name.endswith(end) for end in IMAGES)
    if any(name.endswith(end) for end in UNFINISHED) and any(end in name for end in IMAGES):
        return LeftOut(path, "a download that is not finished, or a shortcut: put the file itself there", lost=True)
    absent = why_absent(path) if is_image or is_dangling(path) else ""
    if absent:
        return LeftOut(path, absent.removeprefix(f"{path}: "), lost=True)
    if is_image or is_dicom(path):
        return LeftOut(path, reason)
    return LeftOut(path, "no image")


@dataclass(frozen=True)
class LeftOutGroup:
    """Files of one patient's folder with one reason. files: the first of them, relative to the source."""

    place: str
    reason: str
    lost: bool
    count: int
    files: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The group as JSON can hold it."""
        return {"place": self.place, "reason": self.reason, "lost": self.lost, "count": self.count, "files": self.files}

    def line(self) -> str:
        """The group for people."""
        more = f" and {self.count - len(self.files)} more" if self.count > len(self.files) else ""
        return f"{', '.join(self.files)}{more}: {self.reason}"


def grouped(source: Path, left_out: Collection[LeftOut]) -> tuple[LeftOutGroup, ...]:
    """The files by the folder below the source that they lie in, and by reason; no file is in two groups."""
    folder = source if source.is_dir() else source.parent

    def key(file: LeftOut) -> tuple[str, str, bool]:
        parts = Path(os.path.relpath(file.path, folder)).parts
        return parts[0] if len(parts) > 1 else "", file.reason, file.lost

    groups = []
    ordered = sorted(left_out, key=lambda file: (key(file), file.path))
    for (folder_name, reason, lost), files in groupby(ordered, key=key):
        paths = [os.path.relpath(file.path, folder) for file in files]
        groups.append(LeftOutGroup(folder_name, reason, lost, len(paths), tuple(paths[:NAMED_AT_MOST])))
    return tuple(groups)
