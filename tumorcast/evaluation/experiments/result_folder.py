"""The folder of an experiment: its provenance, a row a unit with its pictures, why units failed, and the report.

OUT/experiment.json, OUT/rows/UNIT.json, OUT/rows/UNIT/ and OUT/rows/UNIT.failed. A unit is done when its row exists.
OUT/.lock is locked while a run goes on. The report is OUT/README.md, figures.json, a CSV file a table, and pictures;
OUT/so-far/ has the report of an unfinished run.
"""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorcast.durable import held, written_whole
from tumorcast.errors import InputError, StorageError, UsageError
from tumorcast.evaluation.experiments.base import Experiment, Findings, ReportPicture, Row, Table
from tumorcast.evaluation.tables import jsonable, markdown_table
from tumorcast.provenance import commit, flat, refuse_other
from tumorcast.version import VERSION


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
        """Where the report of an unfinished run is written, which may be at work meanwhile."""
        return self.out / "so-far"

    @property
    def record(self) -> Path:
        """The file with the provenance of the results."""
        return self.out / "experiment.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock within the block: no other run may write here.

        Raises UsageError if one does, or if the folder is not one of an experiment, nor empty (durable.held).
        """
        self._refuse_foreign()
        message = (
            f"--out {self.out}: another run of this experiment writes there; wait for its end or stop it, or give "
            "another folder"
        )
        with held(self.out / ".lock", message):
            yield

    def _refuse_foreign(self) -> None:
        if self.record.exists() or not self.out.exists():
            return
        if not self.out.is_dir() or any(not path.name.startswith(".") for path in self.out.iterdir()):
            raise UsageError(f"--out {self.out}: not empty, and no experiment was begun there; give a new folder")

    def open(self, provenance: dict[str, Any]) -> None:
        """Begin, for which it must be held, or go on.

        Raises UsageError if the results there have another provenance, InputError if theirs cannot be read.
        """
        text = json.dumps(provenance, indent=1) + "\n"
        if self.record.exists():
            refuse_other(self.out, self._recorded(), json.loads(text))
            return
        with written_whole(self.record) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _recorded(self) -> dict[str, Any]:
        record = _read_object(self.record)
        if record is None:
            raise InputError(
                f"{self.record}: not the record of an experiment; remove {self.out}, or give another --out"
            )
        return record

    def row(self, unit: str) -> Row | None:
        """The unit's row; None where it is not done."""
        return _read_object(self.rows / f"{unit}.json")

    def write_row(self, unit: str, row: str) -> None:
        """Keep the unit's row, which is JSON already; NaN may be in it."""
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


def _read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing or is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_report(
    out: Path,
    experiment: Experiment,
    findings: Findings,
    rows: dict[str, Row],
    failed: dict[str, str],
    *,
    missing: int = 0,
) -> None:
    """Write everything but the rows to the folder `out`. failed: reasons by unit; missing: not yet measured."""
    provenance = experiment.provenance()
    for number, table in enumerate(findings.tables, start=1):
        _write_csv(out / csv_name(number), table)
    for picture in findings.pictures:
        _draw(picture, out / png_name(picture))
    record = {
        "experiment": experiment.name,
        "version": VERSION,
        "commit": commit(),
        "made_of": provenance,
        "answer": findings.answer,
        "figures": findings.figures,
        "failed": failed,
        "missing": missing,
        "units": rows,
    }
    _write(out / "figures.json", json.dumps(jsonable(record), indent=1) + "\n")
    _write(out / "README.md", page(experiment.name, provenance, findings, (len(rows), missing), failed))


def page(
    name: str, provenance: dict[str, Any], findings: Findings, counts: tuple[int, int], failed: dict[str, str]
) -> str:
    """README.md. counts: of units that were measured, and that still have to be; failed: reasons by unit."""
    done, missing = counts
    unfinished = f", **{missing} not yet: this is a report so far**" if missing else ""
    parts = [
        f"# Experiment `{name}`\n\n{findings.answer}\n\n**For research; not a medical device.** Units: {done} "
        f"measured, {len(failed)} failed{unfinished}. Every figure stands in [figures.json](figures.json).\n",
        *(_table(number, table) for number, table in enumerate(findings.tables, start=1)),
        *(f"![{picture.name}]({png_name(picture)})\n\n{picture.caption}\n" for picture in findings.pictures),
        _failures(failed),
        "## Settings\n\n"
        + _markdown(
            ("setting", "value"), [(key, json.dumps(jsonable(value))) for key, value in flat(provenance).items()]
        ),
        f"Written by `tumorcast experiment {name}` {VERSION}, commit {commit() or 'unknown'}.\n",
    ]
    return "\n".join(part for part in parts if part)


def csv_name(number: int) -> str:
    """The file of a table."""
    return f"table-{number}.csv"


def png_name(picture: ReportPicture) -> str:
    """The file of a picture, whose name may end in .png already."""
    return f"{picture.name.removesuffix('.png')}.png"


def _table(number: int, table: Table) -> str:
    note = f"\n{table.note}\n" if table.note else ""
    title = f"## {table.title}\n\n" if table.title else ""
    return f"{title}{_markdown(table.head, table.rows)}{note}\n[{csv_name(number)}]({csv_name(number)})\n"


def _failures(failed: dict[str, str]) -> str:
    return f"## Not measured\n\n{_markdown(('unit', 'reason'), failed.items())}" if failed else ""


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown_table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows])


def _write_csv(path: Path, table: Table) -> None:
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([table.head, *table.rows])


def _draw(picture: ReportPicture, path: Path) -> None:
    """Draw to a PNG that takes the picture's place when it is whole; matplotlib goes by its suffix."""
    with written_whole(path) as temporary:
        drawn = temporary.with_suffix(".png")
        try:
            picture.draw(drawn)
            drawn.replace(temporary)
        finally:
            drawn.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
