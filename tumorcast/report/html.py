"""An HTML report of an archive of forecasts: a page a patient, an index, and the viewer that the pages share.

    OUT/index.html
    OUT/patients/PATIENT.html
    OUT/static/niivue.umd.js, niivue.licences.txt

It is the same on any number of ranks, and made again it is the same to the last byte.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tumorcast.archive.growth_file import GrowthFile, read_growth
from tumorcast.archive.integrity import read_seal
from tumorcast.archive.maps import FORMAT, FORMAT_VERSION, MapArchive
from tumorcast.durable import sha256_of, write_text, written_whole
from tumorcast.errors import InputError, UsageError
from tumorcast.records import PatientOutcome
from tumorcast.report.pages import words
from tumorcast.report.pages.evaluation import EvaluationFile
from tumorcast.report.pages.index import FOLDER, index_page
from tumorcast.report.pages.patient import IndexRow, Source, patient_page
from tumorcast.report.pages.render import GENERATOR, HERE, SHARED, VIEWER
from tumorcast.running.map_over_ranks import Report, map_over_ranks
from tumorcast.running.outcomes import attempt
from tumorcast.running.ranks import Ranks

INDEX = "index.html"
PICTURES = 4
HEAD_LENGTH = 4000  # characters, within which a page says what made it


@dataclass(frozen=True)
class WrittenReport:
    """What became of a report. pages: how the page of each patient with a forecast fared; the others have none."""

    pages: list[PatientOutcome]
    without_forecast: int


def write_report(
    maps: Path,
    out: Path,
    ranks: Ranks,
    *,
    growth: Path | None = None,
    evaluation: Path | None = None,
    pictures: int = PICTURES,
    report: Report = lambda done, total: None,
) -> WrittenReport:
    """Write the report of the archive `maps` into folder `out`; every rank must call it, with the same arguments.

    growth: the growth file the forecast was made from, for treatment and the whole curve. evaluation: the folder of
    `tumorcast evaluate`. pictures: the most slices a page draws. report: on rank 0, how many pages are done.

    Returns the same on every rank. Raises InputError if a file is not what it should be, UsageError if `out` holds
    something else than a report.
    """
    check_folder(out)
    with MapArchive.open(maps) as archive:
        evaluated = None if evaluation is None else EvaluationFile.read(evaluation, archive.provenance)
        growth_file = None if growth is None else _growth_of(growth, archive)
        source = Source(archive, growth_file, evaluated, pictures, _seal_of(maps))
        rows = _write_pages(source, out, ranks, report)
        if ranks.is_root:
            write_text(out / INDEX, index_page(rows, archive.provenance, source.seal, evaluated))
            _write_viewer(out / SHARED)
            _remove_others(out / FOLDER, rows)
        forecast = set(archive.patient_ids())
    pages = [row.outcome for row in rows if row.patient_id in forecast]
    return WrittenReport(pages, len(rows) - len(pages))


def check_folder(out: Path) -> None:
    """Raises UsageError if `out` is a file, or a folder with something in it that is not a report."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    there = {path.name for path in out.glob("*") if not path.name.startswith(".")} if out.is_dir() else set()
    unfinished = there <= {FOLDER, SHARED}  # the index is written last
    if not unfinished and not _is_ours(out / INDEX):
        raise UsageError(f"--out {out}: holds something else than a report; give a new or empty folder")


def _is_ours(page: Path) -> bool:
    """Whether a page says, at its beginning, that a report is what it is of."""
    if not page.is_file():
        return False
    with page.open(encoding="utf-8", errors="replace") as file:
        return f'content="{GENERATOR}"' in file.read(HEAD_LENGTH)


def _growth_of(path: Path, archive: MapArchive) -> GrowthFile:
    """Raises InputError if the forecast was made from another growth file: its curve would not be the one aimed at."""
    growth, wanted = read_growth(path), archive.provenance.get("growth_sha256")
    if wanted is not None and sha256_of(path) != wanted:
        raise InputError(
            f"{path}: is not the growth file that {archive.path} was made from (SHA-256 {wanted[:12]}…); give that "
            "one, or leave --growth out"
        )
    return growth


def _seal_of(maps: Path) -> str:
    seal = read_seal(maps, FORMAT, FORMAT_VERSION)
    assert seal is not None, "an archive that was opened has a seal"
    return str(seal["sha256"])


def _write_pages(source: Source, out: Path, ranks: Ranks, report: Report) -> list[IndexRow]:
    """Write the pages, shared by the ranks; the rows of all patients, in the order of the run, on every rank."""

    def write(patient_id: str) -> IndexRow | PatientOutcome:
        return attempt(patient_id, partial(_write_page, source, out, patient_id))

    with_maps, outcomes = source.archive.patient_ids(), source.archive.outcomes()
    written = dict(zip(with_maps, map_over_ranks(with_maps, write, ranks, report=report), strict=True))
    rows: dict[str, IndexRow | PatientOutcome] = {outcome.patient_id: outcome for outcome in outcomes}
    return [_row_of(row) for row in (rows | written).values()]


def _write_page(source: Source, out: Path, patient_id: str) -> IndexRow:
    html, row = patient_page(source, patient_id)
    assert row.page is not None, "a patient with a forecast has a page"
    write_text(out / FOLDER / row.page, html)
    return row


def _row_of(result: IndexRow | PatientOutcome) -> IndexRow:
    """The row of a patient, also of one without a page."""
    if isinstance(result, IndexRow):
        return result
    return IndexRow(result.patient_id, result.status, words.without_paths(result.reason))


def _write_viewer(folder: Path) -> None:
    for name in VIEWER:
        with written_whole(folder / name) as temporary:
            shutil.copyfile(HERE / "static" / name, temporary)


def _remove_others(folder: Path, rows: Sequence[IndexRow]) -> None:
    """Remove pages that an earlier report left for patients who have none now, and that are ours."""
    wanted = {row.page for row in rows}
    for page in folder.glob("*.html"):
        if page.name not in wanted and _is_ours(page):
            page.unlink()
