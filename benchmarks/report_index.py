"""How long the index of an HTML report takes to open, to sort and to search in headless Chromium; prints JSON.

    PYTHONPATH=. .venv/bin/python benchmarks/report_index.py [--patients 500] [--repeats 7] [--keep FOLDER]

Rows are made up, a tenth of them failed. Opening is timed by the browser itself, from the start of the navigation to
the end of the page's load event, and to the first paint of its text; sorting and searching from the event to the frame
after it. Medians of the repeats.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from machine import describe

from tests.report.chromium import Chromium
from tumorcast.evaluation.failure_flags import Failure
from tumorcast.records import Status
from tumorcast.report.pages.index import index_page
from tumorcast.report.pages.patient import IndexRow, PatientSummary
from tumorcast.report.pages.words import page_name
from tumorcast.report.sizes import Spread

LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
FRAME = """new Promise((resolve) => {
    const start = performance.now();
    %s;
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - start)));
})"""
SORT = "document.querySelector('[data-column=\"2\"]').click()"
SEARCH = """(() => {
    const box = document.getElementById("search");
    box.value = box.value ? "" : "too much 7";
    box.dispatchEvent(new Event("input"));
})()"""
PROVENANCE = {"version": "0.1.0", "model_sha256": "0" * 64, "settings": {"members": 16, "sampler": {"steps": 20}}}


def row_of(number: int, rng: np.random.Generator) -> IndexRow:
    """A patient that was forecast, or, one of ten, that failed."""
    name = f"PATIENT-{number:05d}"
    if number % 10 == 9:
        return IndexRow(name, Status.FAILED, "3 of 4 contrasts found (no t2f); add it, or train a model without it")
    growth = Spread.of(rng.lognormal(0.1, 0.4, 16))
    size = Spread.of(rng.uniform(200, 4000, 16))
    sizes = PatientSummary(float(rng.uniform(200, 4000)), size, size, growth, 16)
    flags = tuple(str(flag) for flag in Failure if rng.random() < 0.1)
    return IndexRow(name, Status.OK, "", page_name(name), sizes, 20, 90.0, flags)


def measured(index: Path, repeats: int) -> dict[str, float]:
    """Medians in ms."""
    times: dict[str, list[float]] = {"open_ms": [], "painted_ms": [], "sort_ms": [], "search_ms": []}
    with tempfile.TemporaryDirectory() as profile, Chromium.started(Path(profile)) as browser:
        for _ in range(repeats):
            browser.open(index)
            browser.wait_for(f"{LOADED} > 0 && ({PAINTED}) > 0")
            times["open_ms"].append(browser.evaluate(LOADED))
            times["painted_ms"].append(browser.evaluate(PAINTED))
            times["sort_ms"].append(browser.evaluate(FRAME % SORT))
            times["search_ms"].append(browser.evaluate(FRAME % SEARCH))
        assert not browser.troubles(), browser.troubles()
    return {name: round(statistics.median(found), 1) for name, found in times.items()}


def main() -> None:
    """Make the index, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="a folder for the index that was made")
    asked = parser.parse_args()
    machine, rng = describe(threads=1), np.random.default_rng(0)
    rows = [row_of(number, rng) for number in range(asked.patients)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / "index.html"
        index.write_text(index_page(rows, PROVENANCE, "0" * 64, None), encoding="utf-8")
        figures = {"patients": asked.patients, "bytes": index.stat().st_size, "repeats": asked.repeats}
        print(json.dumps(figures | measured(index, asked.repeats) | {"machine": machine}))


if __name__ == "__main__":
    main()
