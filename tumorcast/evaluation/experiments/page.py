"""What is written of an experiment beside its rows: README.md, figures.json, a CSV file a table, and pictures."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tumorcast.durable import written_whole
from tumorcast.evaluation.card import markdown_table
from tumorcast.evaluation.experiments.experiment import Experiment, Findings, Picture, Table
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.run import plain
from tumorcast.provenance import commit, flat
from tumorcast.version import VERSION


def write_report(
    out: Path,
    experiment: Experiment,
    findings: Findings,
    rows: dict[str, Figures],
    failed: dict[str, str],
    *,
    missing: int = 0,
) -> None:
    """Write everything but the rows to the folder `out`. failed: reasons by unit; missing: not yet measured."""
    made_of = experiment.made_of()
    for number, table in enumerate(findings.tables, start=1):
        _write_csv(out / csv_name(number), table)
    for picture in findings.pictures:
        _draw(picture, out / png_name(picture))
    told = {
        "experiment": experiment.name,
        "version": VERSION,
        "commit": commit(),
        "made_of": made_of,
        "answer": findings.answer,
        "figures": findings.figures,
        "failed": failed,
        "missing": missing,
        "units": rows,
    }
    _write(out / "figures.json", json.dumps(plain(told), indent=1) + "\n")
    _write(out / "README.md", page(experiment.name, made_of, findings, (len(rows), missing), failed))


def page(
    name: str, made_of: dict[str, Any], findings: Findings, counts: tuple[int, int], failed: dict[str, str]
) -> str:
    """The page. counts: of units that were measured, and that still have to be; failed: reasons by unit."""
    done, missing = counts
    unfinished = f", **{missing} not yet: this is a report so far**" if missing else ""
    parts = [
        f"# Experiment `{name}`\n\n{findings.answer}\n\n**For research; not a medical device.** Units: {done} "
        f"measured, {len(failed)} failed{unfinished}. Every figure stands in [figures.json](figures.json).\n",
        *(_table(number, table) for number, table in enumerate(findings.tables, start=1)),
        *(f"![{picture.name}]({png_name(picture)})\n\n{picture.caption}\n" for picture in findings.pictures),
        _failures(failed),
        "## Settings\n\n"
        + _markdown(("setting", "value"), [(key, json.dumps(plain(value))) for key, value in flat(made_of).items()]),
        f"Written by `tumorcast experiment {name}` {VERSION}, commit {commit() or 'unknown'}.\n",
    ]
    return "\n".join(part for part in parts if part)


def csv_name(number: int) -> str:
    """The file of a table."""
    return f"table-{number}.csv"


def png_name(picture: Picture) -> str:
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


def _draw(picture: Picture, path: Path) -> None:
    """Draw to a PNG that takes the picture's place when it is whole; its suffix tells what is drawn."""
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
