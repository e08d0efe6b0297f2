"""How a training heeds a signal to stop: between two steps, so that what was learned up to there is saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def heeded_between_steps() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM, SIGUSR1 and Ctrl-C are noted; the block gets a function that says whether one came.

    A second Ctrl-C is a KeyboardInterrupt at once. Outside of the main thread, which alone hears signals, none comes.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in came:
            raise KeyboardInterrupt
        came.append(number)

    hears = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in SIGNALS} if hears else {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
