"""The log of a training run, log.jsonl, and its picture: one JSON object a line, in the order of steps, none twice.

Rows: a step (step, loss, learning_rate, gradient_norm, seconds, images_per_second), a validation (step, validation:
loss by band) or a warning (step, warning). The same numbers go to TensorBoard where it is installed.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tumorcast.durable import write_text
from tumorcast.errors import InputError, StorageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


LOG_FILE, BOARD_FOLDER = "log.jsonl", "tensorboard"
Row = dict[str, Any]
logger = logging.getLogger(__name__)
BOARD_NAMES = {"loss", "learning_rate", "gradient_norm", "images_per_second"}


class RunLog:
    """The log, open at its end. `rows` holds what it told when it was opened."""

    def __init__(self, path: Path, file: TextIO, board: "SummaryWriter | None", rows: list[Row]) -> None:
        """Use `opened_log`."""
        self.path, self.rows = path, rows
        self._file, self._board = file, board

    def write(self, row: Row) -> None:
        """Add a line, to be seen at once by whoever follows the file."""
        try:
            self._file.write(_line(row))
            self._file.flush()
        except OSError as fault:
            raise StorageError(f"{self.path}: not written ({fault.strerror}); free some space, start again") from None
        if self._board is not None:
            for name, value in _scalars(row):
                self._board.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Force what was written to disk."""
        os.fsync(self._file.fileno())


@contextmanager
def opened_log(out: Path, step: int) -> Iterator[RunLog]:
    """The log of a run that stands after `step` steps; what it told of later ones is dropped."""
    path = out / LOG_FILE
    rows = [row for row in read_log(path) if row["step"] <= step] if path.exists() else []
    write_text(path, "".join(map(_line, rows)))
    board = _open_board(out / BOARD_FOLDER, step)
    try:
        with path.open("a", encoding="utf-8") as file:
            yield RunLog(path, file, board, rows)
    finally:
        if board is not None:
            board.close()


def read_log(path: Path) -> list[Row]:
    """The rows of a log; a last line that a crash cut off is left out. Raises InputError if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [row | {"step": int(row["step"])} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise InputError(f"{path}: not a log of training ({fault!r}); remove it, the run goes on without") from None


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _scalars(row: Row) -> list[tuple[str, float]]:
    """What TensorBoard draws of a row, by its names there."""
    plain = [(f"training/{name}", value) for name, value in row.items() if name != "step" and name in BOARD_NAMES]
    return plain + [(f"validation/{band}", loss) for band, loss in row.get("validation", {}).items()]


def _open_board(folder: Path, step: int) -> "SummaryWriter | None":
    """Event files of TensorBoard; those of later steps are hidden."""
    if find_spec("tensorboard") is None:
        logger.warning("tensorboard is not installed, so no event files are written; tumorcast[train] has it")
        return None
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - it is not on every machine that trains

    return SummaryWriter(str(folder), purge_step=step + 1)


def draw_curve(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw the rows of a log into a PNG: every step's loss, its running mean, and the validation loss by band."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that training itself does not need

    steps, losses = _series([(row["step"], row["loss"]) for row in rows if "loss" in row])
    looks = [row for row in rows if "validation" in row]
    window = max(1, len(losses) // 50)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="0.8", linewidth=0.5)
    if len(losses):
        axes.plot(steps[window - 1 :], np.convolve(losses, np.ones(window) / window, "valid"), label="training")
        axes.set_yscale("log")
    for band in looks[0]["validation"] if looks else ():
        axes.plot(*_series([(row["step"], row["validation"][band]) for row in looks]), ".-", label=f"validation {band}")
    if looks:
        axes.legend()
    axes.set(xlabel="step", ylabel="loss", title=title)
    figure.savefig(path, dpi=120)


def _series(points: list[tuple[int, float]]) -> tuple["np.ndarray", "np.ndarray"]:
    """Steps and values, each (N,)."""
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values
