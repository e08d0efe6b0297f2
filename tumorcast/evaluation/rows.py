"""The rows of a comparison on disk, a JSON line a patient, so that a run that stops goes on with the next patient."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.evaluation.comparison import Example
from tumorcast.evaluation.judging import Figures
from tumorcast.provenance import refuse_other

ROWS = "rows.jsonl"


@dataclass
class RowStore:
    """A folder with rows.jsonl, whose first line says what they were made of, and a picture's arrays a patient."""

    folder: Path
    rows: dict[str, Figures] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, made_of: dict[str, Any]) -> "RowStore":
        """Read what is there. Raises UsageError if it was made of something else, InputError if it is no such file.

        A last line that was cut off is dropped: its patient is done again.
        """
        path = folder / ROWS
        if not path.exists():
            _write(path, [made_of])
            return cls(folder)
        lines = path.read_text(encoding="utf-8").split("\n")
        try:
            header, *rows = [json.loads(line) for line in lines[:-1]]
        except ValueError:
            raise InputError(f"{path}: not the rows of a comparison; remove it, or give another folder") from None
        refuse_other(path, header, made_of)
        if lines[-1]:
            _write(path, [header, *rows])
        return cls(folder, {row["patient_id"]: row for row in rows})

    def add(self, row: Figures, example: Example | None) -> None:
        """Keep a patient's row and picture; the picture first, so that a row never lacks it."""
        if example is not None:
            with written_whole(self._picture(row["patient_id"])) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **vars(example))
        with (self.folder / ROWS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows[row["patient_id"]] = row

    def example(self, patient_id: str) -> Example:
        """A patient's picture."""
        with np.load(self._picture(patient_id)) as arrays:
            return Example(**arrays)

    def _picture(self, patient_id: str) -> Path:
        return self.folder / f"{patient_id}.npz"


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    with written_whole(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
