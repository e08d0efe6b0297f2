"""The folder of an experiment: what it was made of, a row a unit with its pictures, and why units failed.

OUT/experiment.json, OUT/rows/UNIT.json, OUT/rows/UNIT/ and OUT/rows/UNIT.failed. A unit is done when its row stands.
OUT/.lock is locked while a run goes on, and OUT/so-far/ a report of what was done by then.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorcast.durable import held, written_whole
from tumorcast.errors import InputError, StorageError, UsageError
from tumorcast.evaluation.judging import Figures
from tumorcast.provenance import refuse_other

NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]")
OURS = (".json", ".failed")


def unit_name(text: str) -> str:
    """A patient's name as a unit's: what a unit's name may not have is told by its code.

    >>> unit_name("PGBM-007"), unit_name("Müller 2")
    ('PGBM-007', 'M_fcller_202')
    """
    return NOT_ALLOWED.sub(lambda found: f"_{ord(found[0]):02x}", text)


def check_names(units: Sequence[str]) -> None:
    """Raises ValueError where a unit could not have files of its own under its name."""
    for unit, count in Counter(units).items():
        if count > 1 or not unit or unit.startswith(".") or unit.endswith(OURS) or NOT_ALLOWED.search(unit):
            raise ValueError(f"unit {unit!r}, named {count} times: cannot name its files")


@dataclass(frozen=True)
class ResultFolder:
    """Every path of an experiment that is written to `out`."""

    out: Path

    @property
    def rows(self) -> Path:
        """The folder with each unit's row and its folder of pictures."""
        return self.out / "rows"

    @property
    def so_far(self) -> Path:
        """Where a report of what is done is written, beside which a run may be at work."""
        return self.out / "so-far"

    @property
    def record(self) -> Path:
        """Where it is told what the results are made of."""
        return self.out / "experiment.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other run may write here within the block.

        Raises UsageError if one does, or if the folder is not one of an experiment, nor empty (durable.held).
        """
        self._refuse_foreign()
        taken = (
            f"--out {self.out}: another run of this experiment writes there; wait for its end or stop it, or give "
            "another folder"
        )
        with held(self.out / ".lock", taken):
            yield

    def _refuse_foreign(self) -> None:
        if self.record.exists() or not self.out.exists():
            return
        if not self.out.is_dir() or any(_seen(path) for path in self.out.iterdir()):
            raise UsageError(f"--out {self.out}: not empty, and no experiment was begun there; give a new folder")

    def open(self, made_of: dict[str, Any]) -> None:
        """Begin, for which it must be held, or go on.

        Raises UsageError if it holds something else, InputError if that cannot be told.
        """
        text = json.dumps(made_of, indent=1) + "\n"
        if self.record.exists():
            refuse_other(self.out, self._made_of(), json.loads(text))
            return
        with written_whole(self.record) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _made_of(self) -> dict[str, Any]:
        try:
            found = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise InputError(
                f"{self.record}: not the record of an experiment; remove {self.out}, or give another --out"
            )
        return found

    def row(self, unit: str) -> Figures | None:
        """The unit's figures; None where it is not done."""
        try:
            row = json.loads((self.rows / f"{unit}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return row if isinstance(row, dict) else None

    def write_row(self, unit: str, row: str) -> None:
        """Keep the unit's figures, which are JSON already; NaN may be among them."""
        with written_whole(self.rows / f"{unit}.json") as temporary:
            temporary.write_text(row + "\n", encoding="utf-8")

    def write_failure(self, unit: str, reason: str) -> None:
        """Keep why the unit failed."""
        with written_whole(self.rows / f"{unit}.failed") as temporary:
            temporary.write_text(reason, encoding="utf-8")

    def reason_of_failure(self, unit: str) -> str | None:
        """Why the unit failed; None if it did not."""
        try:
            return (self.rows / f"{unit}.failed").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def forget_failures(self) -> None:
        """So that what failed is tried again."""
        for path in self.rows.glob("*.failed"):
            path.unlink()

    @contextmanager
    def pictures(self, unit: str) -> Iterator[Path]:
        """The unit's empty folder for pictures; it stays if the block ends well and leaves something in it."""
        folder = self.rows / unit
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
        except OSError as fault:
            raise StorageError(f"{folder}: cannot be made ({fault.strerror}); give --out a writable folder") from None
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not any(folder.iterdir()):
            folder.rmdir()


def _seen(path: Path) -> bool:
    return not path.name.startswith(".")
