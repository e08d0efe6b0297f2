"""numba's decorators with their types kept, so that mypy sees the kernels as the plain functions they are.

Division follows numpy's rules (x / 0 is inf or NaN, never an exception), which spares a test at every division.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def _cache_folder() -> Path:
    """A folder for the machine code of these very kernels.

    numba looks at the file of a function alone, not at those of the functions it calls, whose code is in it too.
    """
    folder = Path(__file__).resolve().parent
    sources = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return folder / "__pycache__" / hashlib.sha256(sources).hexdigest()[:16]


settings: Any = numba.config  # whose names numba makes as it starts
if not settings.CACHE_DIR:
    settings.CACHE_DIR = str(_cache_folder())


def compiled(function: F) -> F:
    """Compile on the first call and keep the machine code on disk. Raises nothing of its own."""
    return cast(F, numba.njit(function, cache=True, error_model="numpy"))


def compiled_inner(function: F) -> F:
    """As `compiled`, for a function that allocates nothing: it spares the counting of references to its arrays.

    To be called from compiled functions alone: Python's own arrays need that counting.
    """
    return cast(F, cast(Any, numba.njit)(function, cache=True, error_model="numpy", _nrt=False))


def compiled_freely(function: F) -> F:
    """As `compiled`, and without Python's lock, so that several threads can call it at a time."""
    return cast(F, numba.njit(function, cache=True, error_model="numpy", nogil=True))
