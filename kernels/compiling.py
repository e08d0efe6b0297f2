"""numba's decorators with their types kept, so that mypy sees the kernels as the plain functions they are.

Division follows numpy's rules (x / 0 is inf or NaN, never an exception), which spares a test at every division.

Machine code is kept between runs where a folder for it can be written; where none can, kernels are compiled in every
process, and one line says so. numba itself would refuse to start there.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

TRIAL = bytes(2**16)  # a file can be made where not a byte of it can be written: over quota
REMEDY = "set NUMBA_CACHE_DIR to a folder that can be written"
settings: Any = numba.config  # whose names numba makes as it starts
log = logging.getLogger(__name__)


def _places() -> Iterator[Path]:
    """Where machine code may be kept, the best first: as the user says, beside the kernels, the user's cache.

    Not the folder of temporary files: who can write there could leave code for others to run.
    """
    if settings.CACHE_DIR:
        yield Path(settings.CACHE_DIR)
    yield Path(__file__).resolve().parent / "__pycache__"
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path's raises without HOME
    if Path(user).is_absolute():
        yield Path(user) / "tumorcast"


def _sum_of_sources() -> str:
    """numba looks at the file of a function alone, not at those of the functions it calls, whose code is in it too."""
    sources = sorted(Path(__file__).resolve().parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(TRIAL)
    except OSError:
        return False
    return True


def _choose_folder() -> Path | None:
    """A folder for the machine code of these very kernels; None where none can be written."""
    places, name = list(_places()), _sum_of_sources()
    found = next((place / name for place in places if _writable(place / name)), None)
    if found is None:
        tried = ", ".join(map(str, places))
        log.warning("kernels are compiled in each process, half a minute: cannot write to %s; %s", tried, REMEDY)
    elif settings.CACHE_DIR and found.parent != places[0]:
        told = "NUMBA_CACHE_DIR=%s cannot be written, machine code is kept in %s; %s"
        log.warning(told, places[0], found.parent, REMEDY)
    return found


folder = _choose_folder()
if folder is not None:
    settings.CACHE_DIR = str(folder)


def _compiled(function: F, **options: bool) -> F:
    make = cast(Any, numba.njit)  # whose declared options lack some
    return cast(F, make(function, cache=folder is not None, error_model="numpy", **options))


def compiled(function: F) -> F:
    """Compile on the first call and keep the machine code on disk. Raises nothing of its own."""
    return _compiled(function)


def compiled_inner(function: F) -> F:
    """As `compiled`, for a function that allocates nothing: it spares the counting of references to its arrays.

    To be called from compiled functions alone: Python's own arrays need that counting.
    """
    return _compiled(function, _nrt=False)


def compiled_freely(function: F) -> F:
    """As `compiled`, and without Python's lock, so that several threads can call it at a time."""
    return _compiled(function, nogil=True)
