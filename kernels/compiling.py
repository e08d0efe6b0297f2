"""numba's decorators with their types kept, so that mypy sees the kernels as the plain functions they are.

Division follows numpy's rules (x / 0 is inf or NaN, never an exception), which spares a test at every division.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


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


def compiled_parallel(function: F) -> F:
    """As `compiled`, with `parallel_range` spread over numba's threads."""
    return cast(F, numba.njit(function, cache=True, parallel=True, error_model="numpy"))


parallel_range = numba.prange
