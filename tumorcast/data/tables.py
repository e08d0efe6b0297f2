"""CSV tables with a header, read with the row number at hand so that a message can point at the row."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from tumorcast.errors import InputError

FORBIDDEN_IN_IDS = "/\\\0"


@dataclass(frozen=True)
class Row:
    """One row of a table: `path` and `line` are for messages, `cells` maps column to stripped text."""

    path: Path
    line: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        """The cell's text, empty when the column is absent or blank."""
        return self.cells.get(column, "")

    def identifier(self, column: str) -> str:
        """A patient's or session's identifier. Raises InputError if it is blank or cannot be a name in a file."""
        name = self.text(column)
        if not name or name in {".", ".."} or any(character in name for character in FORBIDDEN_IN_IDS):
            raise InputError(f"{self.where}: {column} is {name!r}; give a name without slashes")
        return name

    def number(self, column: str) -> float | None:
        """The cell as a finite number, None when blank. Raises InputError for anything else."""
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{self.where}: {column} is {text!r}, not a finite number; correct it or leave it blank")
        return value

    @property
    def where(self) -> str:
        """The place in the table, as messages name it."""
        return f"{self.path}, line {self.line}"


def read_table(path: Path, required: tuple[str, ...]) -> list[Row]:
    """All rows of a comma-separated table. Raises InputError if it cannot be read or lacks a required column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restkey="", restval="", skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            _check_columns(path, columns, required)
            reader.fieldnames = columns
            return [Row(path, reader.line_num, _stripped(cells)) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a UTF-8 CSV table ({error})") from error


def _check_columns(path: Path, columns: list[str], required: tuple[str, ...]) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise InputError(f"{path}: no column {', '.join(missing)} (found: {found}); add it, separated by commas")


def _stripped(cells: dict[str, str]) -> dict[str, str]:
    return {name: value.strip() for name, value in cells.items() if name}
