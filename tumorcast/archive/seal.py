"""The first 1024 bytes of a shard and of an archive: a line of JSON with the size of the file and the sum of the rest.

So a file that was cut short or damaged is found before the HDF5 library sees it, which may crash on damaged metadata.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumorcast.errors import InputError

USER_BLOCK = 1024  # HDF5 leaves it to its user. More than 512, since the name of a patient may have 255 bytes


def block_of(told: Mapping[str, Any]) -> bytes:
    """The block: the record as JSON, filled up with spaces, and a newline. Raises InputError if it is too long."""
    line = json.dumps(told, sort_keys=True, ensure_ascii=False).encode()
    if len(line) >= USER_BLOCK:
        raise InputError(
            f"{told}: {len(line)} bytes, at most {USER_BLOCK - 1} are possible; shorten the patient's name"
        )
    return line.ljust(USER_BLOCK - 1) + b"\n"


def told_by(block: bytes) -> dict[str, Any] | None:
    """The record of a block; None if it is not one, or has changed since it was written."""
    try:
        told = json.loads(block)
        return told if isinstance(told, dict) and block_of(told) == block else None
    except (ValueError, RecursionError, InputError):
        return None


def read_seal(path: Path, form: str, version: int) -> dict[str, Any] | None:
    """What the seal of a file says, if it is of this format and version and as long as the file; else None."""
    try:
        told, size = _block_and_size(path)
    except OSError:
        return None
    return told if told and _is_of(told, form, version) and told.get("size") == size else None


def has_seal(path: Path, form: str, version: int) -> bool:
    """Whether a file has a seal of this format and version, be it damaged otherwise."""
    try:
        told, _ = _block_and_size(path)
    except OSError:
        return False
    return told is not None and _is_of(told, form, version)


def _block_and_size(path: Path) -> tuple[dict[str, Any] | None, int]:
    """The record of a file's block, if it is one, and how long the file is. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return told_by(file.read(USER_BLOCK)), path.stat().st_size


def _is_of(told: Mapping[str, Any], form: str, version: int) -> bool:
    return (told.get("format"), told.get("version")) == (form, version)


def has_right_sum(path: Path, told: Mapping[str, Any]) -> bool:
    """Whether the bytes after the block are those of the seal; reads the file once."""
    try:
        return sum_of_rest(path) == told.get("sha256")
    except OSError:
        return False


def sum_of_rest(path: Path) -> str:
    """The SHA-256 of all bytes after the block."""
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_file(path: Path, told: Mapping[str, Any]) -> None:
    """Write the block of a file whose rest is complete: what is told, its size, and the sum of the rest."""
    block = block_of({**told, "size": path.stat().st_size, "sha256": sum_of_rest(path)})
    with path.open("r+b") as file:
        file.write(block)


def fault_of(path: Path, form: str, version: int) -> str | None:
    """What is wrong with a sealed file as a whole; None if it is as it was written. Reads it once."""
    try:
        told, size = _block_and_size(path)
    except OSError as fault:
        return f"{path}: cannot be read ({fault.strerror})"
    if told is None or not _is_of(told, form, version):
        return f"{path}: not a {form} of version {version}, or its first {USER_BLOCK} bytes are damaged"
    if told.get("size") != size:
        return f"{path}: has {size} bytes, and was written with {told.get('size')}"
    if not has_right_sum(path, told):
        return f"{path}: damaged, or changed since it was written: the sum of its bytes is not right"
    return None
