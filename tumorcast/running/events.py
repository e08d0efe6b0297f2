"""What each rank did and when, as lines of JSON in a file of its own: for people, and for `tumorcast status`."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tumorcast.errors import StorageError


class EventLog:
    """Appends events to a rank's file; each line stands at once."""

    def __init__(self, folder: Path, rank: int) -> None:
        path = folder / f"rank-{rank:04d}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as fault:
            raise StorageError(
                f"{path}: cannot be written ({fault.strerror}); give --out in a writable folder"
            ) from None

    def write(self, event: str, **told: Any) -> None:
        """Append a line. A full disk is not told here: it would hide the result's own error."""
        line = json.dumps({"time": round(time.time(), 3), "event": event} | told)
        with suppress(OSError):
            self._file.write(line + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, after a word on what ended the work."""
        if error is not None:
            self.write("ended", reason=f"{type(error).__name__}: {error}")
        with suppress(OSError):  # what could not be written is tried again, and fails again
            self._file.close()


def read_events(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every rank's number with its events, in the order of each; a line cut short by a kill is left out."""
    for path in sorted(folder.glob("rank-*.jsonl")):
        rank = int(path.stem.removeprefix("rank-"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield rank, json.loads(line)
            except ValueError:
                continue
