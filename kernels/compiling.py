"""numba's decorators with their types kept, so that mypy sees the kernels as the plain functions they are."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile on the first call and keep the machine code on disk. Raises nothing of its own."""
    return cast(F, numba.njit(function, cache=True))


def compiled_parallel(function: F) -> F:
    """As `compiled`, with `parallel_range` spread over numba's threads."""
    return cast(F, numba.njit(function, cache=True, parallel=True))


parallel_range = numba.prange
