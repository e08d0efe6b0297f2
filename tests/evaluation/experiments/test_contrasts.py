"""Models of different contrasts on the same slices: what is compared, what is refused, and the command."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.evaluation.conftest import SETTINGS
from tests.fakes import WindowEngine
from tumorcast.cli.experiment import experiment as commands
from tumorcast.cli.experiment.contrasts import names_of
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.engines.opening import EngineChoice
from tumorcast.errors import InputError, TumorcastError
from tumorcast.evaluation.experiments.contrasts import Contender, ContrastsExperiment
from tumorcast.evaluation.experiments.forecast_scores import METRICS
from tumorcast.evaluation.followup import TargetSize
from tumorcast.evaluation.targets import TargetSource
from tumorcast.records import Contrast, Session

TARGETS = TargetSource.shipped(TargetSize.TRUE)
ONE, FOUR = "one (t1n)", "four (t1n, t1c, t2w, t2f)"


def write(path: Path, sessions: list[Session], contrasts: int = 1) -> Path:
    write_cohort(path, sessions, {}, image_size=64, contrasts=tuple(Contrast)[:contrasts], config={})
    return path


@pytest.fixture
def single(blob: Callable[..., Session], tmp_path: Path) -> Path:
    """The scans of patient B of `blob_cohort`, and of a stranger, with T1 alone; the brain is a pixel row smaller."""
    sessions = [blob(name, f"{k:03d}", 60.0 * k, 6.0 + k, 1) for name in ("B", "D") for k in range(3)]
    for session in sessions:
        session.brain[:, 9] = False
    return write(tmp_path / "single.h5", sessions)


def engine_of(contrasts: int) -> WindowEngine:
    info = WindowEngine().info
    return WindowEngine(info=replace(info, contrasts=info.contrasts[:contrasts], sha256=str(contrasts)))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def experiment(stack: ExitStack, *cohorts: Path) -> ContrastsExperiment:
    opened = [stack.enter_context(Cohort.open(path)) for path in cohorts]
    names = (ONE, FOUR) if len(opened[0].contrasts) == 1 else (FOUR, ONE)
    contenders = [Contender(name, one, engine_of(len(one.contrasts))) for name, one in zip(names, opened, strict=False)]
    return ContrastsExperiment(tuple(contenders), TARGETS, SETTINGS)


def test_contenders_are_judged_on_the_same_slices(stack: ExitStack, single: Path, blob_cohort: Path) -> None:
    asked = experiment(stack, single, blob_cohort)
    asked.check()
    assert asked.units() == ["B"]  # A and C are not in one of them, D not in the other
    row = asked.measure("B", single.parent)
    json.dumps(row)
    one, four = (row["contenders"][name] for name in (ONE, FOUR))
    assert set(one) == set(four) == {metric.name for metric in METRICS}
    alike = [
        name for name in one if name.startswith("ssim")
    ]  # one of the contrasts is judged, and the engines are alike
    assert [one[name] for name in alike] == pytest.approx([four[name] for name in alike], abs=0.02)
    assert one["ap"] == pytest.approx(four["ap"], abs=0.02)  # both within the smaller brain


def test_the_report_pairs_patients(stack: ExitStack, single: Path, blob_cohort: Path) -> None:
    asked = experiment(stack, single, blob_cohort)
    blank = dict.fromkeys((metric.name for metric in METRICS), None)
    rows = {
        unit: {"ratio": 1.2, "contenders": {ONE: blank | {"ap": one}, FOUR: blank | {"ap": four}}}
        for unit, one, four in (("P1", 0.5, 0.75), ("P2", 0.25, 0.75), ("P3", None, 0.5))
    }
    found = asked.report(rows, single.parent)
    assert f"{ONE} 0.375" in found.answer and f"{FOUR} 0.667" in found.answer
    assert f"{FOUR} less {ONE} +0.375" in found.answer
    difference = found.figures[FOUR]["ap"]["less_reference"].estimate
    assert (difference.value, difference.patients) == (0.375, 2)
    means, less = found.tables
    assert [row[0] for row in means.rows] == ["AP, growth map", "patients"]
    assert means.rows[1] == ("patients", "2", "3")
    assert less.head == (f"less {ONE}", FOUR)


def test_other_scans_are_refused(
    stack: ExitStack, single: Path, blob: Callable[..., Session], blob_cohort: Path, tmp_path: Path
) -> None:
    def other(name: str, radius: float, day: float, **changes: Any) -> Path:
        sessions = [blob("B", f"{k:03d}", day * k, radius + k, 1) for k in range(3)]
        return write(tmp_path / name, [replace(session, **changes) for session in sessions])

    for path, message in (
        (other("mask.h5", 5.0, 60.0), r"mask\.h5: slices \[10\] of B"),
        (other("grid.h5", 6.0, 60.0, affine=np.eye(4)), r"grid\.h5: slices \[10\] of B"),
        (other("number.h5", 6.0, 60.0, source_slice=np.array([7, 8, 9])), r"number\.h5: slices \[10\] of B"),
        (other("day.h5", 6.0, 50.0), r"of B are \[\('001', 50.0\), \('002', 100.0\)\]"),
    ):
        asked = experiment(stack, blob_cohort, path)
        with pytest.raises(InputError, match=message):
            asked.measure("B", tmp_path)


def test_nothing_in_common_is_told_before_a_unit(
    stack: ExitStack, single: Path, blob: Callable[..., Session], blob_cohort: Path, tmp_path: Path
) -> None:
    stranger = write(tmp_path / "s.h5", [blob("Z", f"{k}", 9.0 * k, 5.0 + k, 1) for k in range(2)])
    with pytest.raises(InputError, match="patient with two scans"):
        experiment(stack, stranger, blob_cohort).check()
    scans = [replace(blob("B", f"{k}", 9.0 * k, 5.0 + k, 1), contrasts=(Contrast.T2F,)) for k in range(2)]
    other = tmp_path / "t2f.h5"
    write_cohort(other, scans, {}, image_size=64, contrasts=(Contrast.T2F,), config={})
    with pytest.raises(InputError, match="no contrast"):
        experiment(stack, single, other).check()


def test_names_tell_the_model_and_its_contrasts() -> None:
    assert names_of([["t1c"], ["t1n", "t1c"]], [Path("a"), Path("x/b")]) == ["a (t1c)", "b (t1n, t1c)"]
    assert names_of([["t1c"], ["t1c"]], [Path("a"), Path("x/a")]) == ["a (t1c) 1", "a (t1c) 2"]


def run(*words: object) -> Any:
    return CliRunner().invoke(commands, ["contrasts", *(str(word) for word in words)])


def test_the_command_takes_a_cohort_a_model(
    single: Path, blob_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(choice: EngineChoice) -> WindowEngine:
        return engine_of(1 if choice.model_paths == (Path("one"),) else 4)

    monkeypatch.setattr("tumorcast.engines.opening.open_engine", opened)
    both = ["--cohort", single, "--model", "one", "--cohort", blob_cohort, "--model", "four"]
    few = ["--out", tmp_path / "out", "--steps", 2, "--members", 2]
    result = run(*both, *few, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["units"] == {"ok": 1, "failed": 0}
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"|  | {ONE} | {FOUR} |" in page
    assert (tmp_path / "out" / "slices.png").stat().st_size > 5000
    for words, message in (
        (both[:4], "1 --cohort and 1 --model"),
        (both[:6], "2 --cohort and 1 --model"),
        (
            [*both[:3], "four", *both[4:]],
            "single.h5: its slices are t1n at 64 px",
        ),
    ):
        fault = run(*words, *few).exception
        assert isinstance(fault, TumorcastError) and message in str(fault)
