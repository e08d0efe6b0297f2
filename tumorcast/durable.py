"""Files that are there whole or not at all: written beside their place, flushed to disk, then renamed into it.

And the lock by which one process alone writes to a folder.
"""

import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tumorcast.errors import InputError, StorageError, UsageError

log = logging.getLogger(__name__)

LOCK_PAUSE_SECONDS = 0.2  # between two looks whether a lock is free
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # a file system without them


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` to write to; it takes the place of `path` when the block ends without an error.

    Raises StorageError if the folder cannot be written to or is full. After an error the sibling is removed and `path`
    is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as fault:
        raise StorageError(
            f"{path}: cannot be written ({fault.strerror}); give an output in a writable folder"
        ) from None
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as fault:
        raise StorageError(f"{path}: not written whole ({fault}); free some space, or give another output") from fault
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all. Raises StorageError as `written_whole` does."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Force a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 sum of a file's bytes, as hexadecimal digits. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise InputError(f"{path}: {why_unreadable(path, fault)}; correct the name, or allow it to be read") from None


def why_unreadable(path: Path, fault: OSError) -> str:
    """Why a file, of HDF5 as a rule, was not opened: the library's own words tell of descriptors and buffers."""
    if path.is_dir():
        return "is a folder, and a file is needed"
    if not path.exists():
        return "no such file"
    if fault.errno is not None:
        return f"cannot be read ({os.strerror(fault.errno)})"
    return "is cut short" if "truncated" in str(fault) else "is no HDF5 file, or damaged"


@contextmanager
def held(path: Path, taken: str) -> Iterator[None]:
    """No other process holds the lock file `path` within the block; its folder is made.

    The lock goes with the process, however that ends. Where the file system has no locks there is none. Raises
    UsageError(taken) if another process holds it, StorageError if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as fault:
        raise StorageError(
            f"{path}: cannot be written ({fault.strerror}); give an output in a writable folder"
        ) from None
    try:
        if not lock(descriptor):
            raise UsageError(taken)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held_when_free(path: Path) -> Iterator[None]:
    """No other process is in the block for this lock file at the same time: this one waits until it is free.

    The lock goes with the process. Where the file system has none, or the folder cannot be written, there is none.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        yield
        return
    try:
        if not lock(descriptor):
            log.warning("%s: another process is at it; waiting", path)
            while not lock(descriptor):
                time.sleep(LOCK_PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file for this process, until it is closed or the process ends. Returns whether it was free.

    Where the file system has no locks, every file is.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as fault:
        if fault.errno not in NO_LOCKS:
            raise
    return True
