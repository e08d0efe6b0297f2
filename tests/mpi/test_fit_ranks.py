"""Real MPI: the same growth.h5 on any number of ranks, and every way for a rank to end.

This file is also what the ranks run: `mpirun -n 3 python -m mpi4py test_fit_ranks.py OUT [BEHAVIOUR]`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tumorcast.errors import StorageError, TumorcastError
from tumorcast.random_keys import patient_key
from tumorcast.records import FitStatus, GrowthFit, LawName, RadiotherapyCourse, SizeSeries, Status, Treatment
from tumorcast.running.growth_job import fit_cohort_to
from tumorcast.running.ranks import open_ranks

Launch = Callable[..., list[str]]
FAILING = "P3"


def cohort() -> list[SizeSeries]:
    treatment = Treatment((RadiotherapyCourse(10.0, 52.0, 60.0, 30),))
    scans = {"P5": 4, "P1": 9, "P3": 3, "P2": 5, "P4": 6, "P9": 2, "P7": 7}
    return [
        SizeSeries(name, "area_mm2", np.arange(count) * 30.0, np.linspace(100, 50, count), treatment)
        for name, count in scans.items()
    ]


def fake_fit(series: SizeSeries) -> GrowthFit:
    rng = np.random.default_rng(patient_key(series.patient_id))
    replicates = 60_000 if series.patient_id == "P1" else 50
    if series.patient_id == FAILING:
        raise ArithmeticError("singular")
    return GrowthFit(
        series=series,
        law=LawName.LOGISTIC,
        parameter_names=("rate_per_day", "capacity", "initial_size"),
        parameters=rng.random(3),
        replicates=rng.random((replicates, 3)),
        replicate_status=rng.integers(0, len(FitStatus), replicates).astype(np.uint8),
        loss=float(rng.random()),
        loss_name="log_squares",
        status=FitStatus.CONVERGED,
        origin_day=0.0,
        deviations=rng.standard_normal(replicates),
        notes=("a note",) if series.patient_id == "P2" else (),
    )


def full_disk_on_the_last(series: SizeSeries) -> GrowthFit:
    if series.patient_id == "P9":
        raise StorageError("growth.h5: no room; free some space")
    return fake_fit(series)


def crash_on_the_last(series: SizeSeries) -> GrowthFit:
    if series.patient_id == "P9":
        raise KeyboardInterrupt
    return fake_fit(series)


def run_rank(out: Path, behaviour: str = "fake_fit") -> int:
    """What every rank does, as the command line will: 1 if some failed, else the error's code."""
    reports: list[tuple[int, int]] = []
    try:
        with open_ranks() as ranks:
            outcomes = fit_cohort_to(
                *(out, cohort(), globals()[behaviour], {"seed": 0}, ranks),
                forecaster="pooled",
                prior="{}",
                report=lambda done, total: reports.append((done, total)),
            )
    except TumorcastError as fault:
        print(f"error: {fault}", file=sys.stderr, flush=True)
        return fault.exit_code
    assert bool(reports) is bool(outcomes) is ranks.is_root
    if ranks.is_root:
        print(ranks.size, ranks.threads_per_rank, reports[-1], flush=True)
    return int(any(outcome.status is Status.FAILED for outcome in outcomes))


def run_on(launch: Launch, ranks: int, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The process, after it ended by itself: one that hangs fails the test."""
    command = [*launch(ranks, **options), __file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def contents(path: Path) -> dict[str, Any]:
    """Every attribute and data set, with its type and its bytes, in the file's own order."""
    found: dict[str, Any] = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        found[name] = {
            key: (str(np.asarray(value).dtype), str(np.asarray(value).tolist())) for key, value in node.attrs.items()
        }
        if isinstance(node, h5py.Dataset):
            found[name + "/data"] = (node.dtype, node.shape, node.chunks, node[()].tobytes())

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
        found["order"] = list(file["patients"])
    return found


@pytest.fixture(scope="module")
def results(
    launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[Path, subprocess.CompletedProcess[str]]]:
    """The growth file by the number of ranks that made it, and how they ended."""
    folder = tmp_path_factory.mktemp("ranks")
    outs = {count: folder / f"on{count}.h5" for count in (1, 2, 3)}
    return {count: (out, run_on(launch, count, str(out))) for count, out in outs.items()}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_rank_0_alone_reports_and_some_failed_is_1(
    ranks: int, results: dict[int, tuple[Path, subprocess.CompletedProcess[str]]]
) -> None:
    out, ended = results[ranks]
    assert ended.returncode == 1, ended.stderr
    size, threads, *last = ended.stdout.split(maxsplit=2)
    assert (int(size), last) == (ranks, ["(7, 7)\n"])
    assert 1 <= int(threads) <= max(1, len(os.sched_getaffinity(0)) // ranks)
    assert not out.with_name(out.name + ".parts").exists()


def test_the_result_is_the_same_on_any_number_of_ranks(
    results: dict[int, tuple[Path, subprocess.CompletedProcess[str]]],
) -> None:
    made = {count: contents(out) for count, (out, _) in results.items()}
    assert made[1]["order"] == ["P5", "P1", "P2", "P4", "P9", "P7"]
    assert made[1] == made[2] == made[3]
    tables = {out.with_name(f"on{count}.status.tsv").read_text() for count, (out, _) in results.items()}
    (table,) = tables
    assert "P3\tfailed\tArithmeticError: singular\n" in table
    assert "P2\tok\ta note\n" in table


@pytest.mark.parametrize("through", [("-m", "mpi4py"), ()])
@pytest.mark.parametrize(("behaviour", "code"), [("full_disk_on_the_last", 3), ("crash_on_the_last", 130)])
def test_a_rank_that_ends_ends_them_all(
    behaviour: str, code: int, through: tuple[str, ...], launch: Launch, tmp_path: Path
) -> None:
    began = time.monotonic()
    ended = run_on(launch, 3, str(tmp_path / "growth.h5"), behaviour, through=through)
    assert ended.returncode == code, ended.stderr
    assert time.monotonic() - began < 60  # the others do not wait for ever
    assert not (tmp_path / "growth.h5").exists()
    if code == StorageError.exit_code:
        assert ended.stderr.count("error: growth.h5: no room; free some space") == 1


def test_the_command_is_the_same_on_any_number_of_ranks(launch: Launch, tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    rows = [f"P{k},{60 * scan},{500 + 100 * ((k + scan) % 3)},10\n" for k in range(5) for scan in range(4)]
    table.write_text("patient_id,day,area_mm2,rt_start_day\n" + "".join(rows) + "bad,0,-1,\n")
    made, records = [], []
    for count in (1, 3):
        out = tmp_path / f"on{count}.h5"
        options = ["--out", str(out), "--replicates", "20", "--search", "quick", "--held-out", "last", "--json"]
        answers = tmp_path / f"answers{count}.csv"
        options += ["--plots", str(tmp_path / f"plots{count}"), "--answers", str(answers)]
        command = [*launch(count), "-m", "tumorcast", "fit", str(table), *options]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 1, ended.stderr  # one patient's row cannot be
        (line,) = ended.stdout.splitlines()
        records.append({key: value for key, value in json.loads(line).items() if key not in {"out", "answers"}})
        made.append((contents(out), answers.read_text()))
        assert sorted(path.name for path in (tmp_path / f"plots{count}").iterdir()) == [f"P{k}.png" for k in range(5)]
    assert records[0] == records[1]
    assert tuple(records[0][name] for name in ("ok", "failed", "scans_scored")) == (5, 1, 5)
    assert made[0] == made[1]


if __name__ == "__main__":
    sys.exit(run_rank(Path(sys.argv[1]), *sys.argv[2:]))
