"""Work on many items in several processes, with the results in the order of the items."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tumorcast.errors import EngineError

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2  # items in flight a process; bounds the memory of the parent


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], jobs: int, *, initializer: Callable[[], None] | None = None
) -> Iterator[Result]:
    """The result of each item in turn, made in `jobs` processes, or in this one if that is all.

    work and initializer (called once in each process) must be importable. Raises EngineError if a process is killed.

    >>> list(in_processes(abs, [-1, -2], jobs=1))
    [1, 2]
    """
    if jobs == 1:
        yield from map(work, items)
        return
    try:
        yield from _pooled(work, items, jobs, initializer)
    except BrokenProcessPool as error:
        raise EngineError(
            "a process was killed, perhaps for want of memory; use fewer --jobs, or more memory (sbatch --mem)"
        ) from error


def _pooled(
    work: Callable[[Item], Result], items: Iterable[Item], jobs: int, initializer: Callable[[], None] | None
) -> Iterator[Result]:
    spawn = multiprocessing.get_context("spawn")  # forking would copy the locks of the parent's threads
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=initializer) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= AHEAD * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
