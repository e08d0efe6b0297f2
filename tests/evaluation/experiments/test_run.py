"""Runs of an experiment that costs nothing: resumed, refused, stopped, and the same on any number of ranks.

This file is also what the ranks run: `mpirun -n 2 python -m mpi4py test_run.py OUT`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tumorcast.errors import InputError, StorageError, UsageError
from tumorcast.evaluation.experiments.base import Findings, ReportPicture, Table
from tumorcast.evaluation.experiments.run import report_so_far, run_experiment
from tumorcast.running.ranks import open_ranks
from tumorcast.running.work_queue import Tally

FAILING = "u-3"


@dataclass
class Squares:
    """Of the numbers in the units' names; before: what a unit does first; done: those measured here, in order."""

    count: int = 5
    power: int = 2
    failing: str = FAILING
    before: Callable[[str], None] = lambda unit: None
    done: list[str] = field(default_factory=list)
    name: str = "squares"

    def provenance(self) -> dict[str, Any]:
        return {"settings": {"power": self.power, "of": ("a", "b")}, "cohort_sha256": "f00"}

    def units(self) -> Sequence[str]:
        return [f"u-{number}" for number in range(self.count)]

    def measure(self, unit: str, pictures: Path) -> dict[str, Any]:
        self.before(unit)
        (pictures / "array.txt").write_text(unit)
        if unit == self.failing:
            raise InputError(f"{unit}: a bad | number\nindeed")
        self.done.append(unit)
        return {"value": int(unit[2:]) ** self.power, "none": float("nan")}

    def report(self, rows: dict[str, dict[str, Any]], pictures: Path) -> Findings:
        assert [(pictures / unit / "array.txt").read_text() for unit in rows] == list(rows)
        assert all(row["none"] != row["none"] for row in rows.values())
        total = sum(row["value"] for row in rows.values())
        tables = [
            Table("Values", ("unit", "value"), [(unit, str(row["value"])) for unit, row in rows.items()], "Note.")
        ]
        pictures_of = [ReportPicture("total", "The total.", lambda path: _draw(path, str(total)))]
        return Findings(f"How much is it? {total}.", {"total": total, "none": float("nan")}, tables, pictures_of)


def _draw(path: Path, text: str) -> None:
    assert path.suffix == ".png"
    path.write_text(text)


def contents(out: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("squares") / "whole"
    assert run_experiment(Squares(), out).done == 4
    return out


def test_what_a_run_writes(whole: Path) -> None:
    wanted = {".lock", "README.md", "experiment.json", "figures.json", "table-1.csv", "total.png", "rows/u-3.failed"}
    done = ["u-0", "u-1", "u-2", "u-4"]
    assert set(contents(whole)) == wanted | {f"rows/{u}.json" for u in done} | {f"rows/{u}/array.txt" for u in done}
    told = json.loads((whole / "figures.json").read_text(), parse_constant=pytest.fail)
    assert told["figures"] == {"total": 21, "none": None}
    assert told["units"]["u-4"] == {"value": 16, "none": None}
    assert told["failed"] == {FAILING: "u-3: a bad | number indeed"}
    assert told["made_of"]["settings"]["power"] == 2 and {"version", "commit"} <= told.keys()
    page = (whole / "README.md").read_text()
    for part in (
        "How much is it? 21.",
        "not a medical device",
        "Units: 4 measured, 1 failed",
        "| u-4 | 16 |",
        "![total](total.png)\n\nThe total.",
        "| u-3 | u-3: a bad \\| number indeed |",
        "| settings.power | 2 |",
    ):
        assert part in page
    assert (whole / "table-1.csv").read_text() == "unit,value\nu-0,0\nu-1,1\nu-2,4\nu-4,16\n"
    assert (whole / "total.png").read_text() == "21"


def test_a_unit_that_stands_is_not_done_again_and_one_that_failed_is(whole: Path, tmp_path: Path) -> None:
    tallies: list[tuple[int, int, int]] = []

    def note(tally: Tally) -> None:
        tallies.append((tally.total, tally.done, tally.failed))

    run_experiment(Squares(), tmp_path / "out", report=note)
    assert tallies[-1] == (5, 4, 1)
    again = Squares()
    assert run_experiment(again, tmp_path / "out").failed == {FAILING: "u-3: a bad | number indeed"}
    assert again.done == []
    assert contents(tmp_path / "out") == contents(whole)
    more = Squares(count=6, failing="")
    assert (run_experiment(more, tmp_path / "out").done, more.done) == (6, [FAILING, "u-5"])
    assert not (tmp_path / "out" / "rows" / "u-3.failed").exists()


def test_what_is_done_so_far_is_reported_without_measuring_more(whole: Path, tmp_path: Path) -> None:
    run_experiment(Squares(), tmp_path / "out")
    more = Squares(count=8)
    told = report_so_far(more, tmp_path / "out")
    assert (told.done, list(told.failed), more.done) == (4, [FAILING], [])
    so_far = tmp_path / "out" / "so-far"
    assert "4 measured, 1 failed, **3 not yet: this is a report so far**" in (so_far / "README.md").read_text()
    assert json.loads((so_far / "figures.json").read_text())["missing"] == 3
    left = {name: text for name, text in contents(tmp_path / "out").items() if not name.startswith("so-far")}
    assert left == contents(whole)  # a run that ends meanwhile keeps its report


def test_a_run_that_is_at_work_can_be_looked_at(tmp_path: Path) -> None:
    seen: list[int | str] = []

    def look(unit: str) -> None:
        try:
            seen.append(report_so_far(Squares(), tmp_path / "out").done)
        except InputError as fault:
            seen.append(str(fault))

    run_experiment(Squares(before=look), tmp_path / "out")
    begun = f"{tmp_path / 'out'}: none of 5 units is done yet; wait, or start again without --so-far"
    assert seen == [begun, 1, 2, 3, 3]


def test_nothing_begun_or_something_else_has_no_report_so_far(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out: .*--so-far"):
        report_so_far(Squares(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run_experiment(Squares(), tmp_path / "out")
    with pytest.raises(UsageError, match="power"):
        report_so_far(Squares(power=3), tmp_path / "out")


def test_a_row_cut_short_is_made_again(whole: Path, tmp_path: Path) -> None:
    run_experiment(Squares(), tmp_path / "out")
    (tmp_path / "out" / "rows" / "u-1.json").write_text('{"value": ')
    run_experiment(Squares(), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_ends_its_unit_and_goes_on_later(
    number: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    stopped = Squares(before=lambda unit: os.kill(os.getpid(), number) if unit == "u-1" else None)
    result = run_experiment(stopped, tmp_path / "out")
    assert (result.stopped, result.findings, stopped.done) == (True, None, ["u-0", "u-1"])
    assert not (tmp_path / "out" / "README.md").exists()
    rest = Squares()
    run_experiment(rest, tmp_path / "out")
    assert rest.done == ["u-2", "u-4"]
    assert contents(tmp_path / "out") == contents(whole)


def test_a_unit_that_outlasts_the_grace_is_dropped(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def linger(unit: str) -> None:
        if unit == "u-1":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    monkeypatch.setenv("TUMORCAST_GRACE_SECONDS", "0")
    stopped = Squares(before=linger)
    assert run_experiment(stopped, tmp_path / "out").stopped and stopped.done == ["u-0"]
    run_experiment(Squares(), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_a_job_that_is_over_begins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUMORCAST_END_TIME", "1")
    late = Squares()
    assert run_experiment(late, tmp_path / "out").stopped and late.done == []


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    def fill(unit: str) -> None:
        raise StorageError("rows: no room")

    with pytest.raises(StorageError, match="no room"):
        run_experiment(Squares(before=fill), tmp_path / "out")
    assert list((tmp_path / "out" / "rows").iterdir()) == []


def test_what_cannot_be_json_fails_its_unit(tmp_path: Path) -> None:
    class Odd(Squares):
        def measure(self, unit: str, pictures: Path) -> dict[str, Any]:
            return {"value": 1} if unit == "u-0" else {"value": {1, 2}}

        def report(self, rows: dict[str, dict[str, Any]], pictures: Path) -> Findings:
            return Findings("", {})

    result = run_experiment(Odd(count=2), tmp_path / "out")
    assert result.failed == {"u-1": "TypeError: Object of type set is not JSON serializable"}


def test_a_folder_of_something_else_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"settings\.power = 2 there"):
        run_experiment(Squares(power=3), whole)
    with pytest.raises(UsageError, match="experiment = 'squares' there"):
        run_experiment(Squares(name="cubes"), whole)
    (tmp_path / "README.md").write_text("mine")
    for other in (tmp_path, tmp_path / "README.md"):
        with pytest.raises(UsageError, match=r"--out .*: not empty"):
            run_experiment(Squares(), other)
    (tmp_path / "experiment.json").write_text("[]")
    with pytest.raises(InputError, match=r"experiment\.json: not"):
        run_experiment(Squares(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_goes_on(whole: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def start_again(unit: str) -> None:
        with pytest.raises(UsageError) as second:
            run_experiment(Squares(), tmp_path / "out")
        refused.append(str(second.value))

    first = Squares(before=start_again)
    assert run_experiment(first, tmp_path / "out").done == 4
    assert refused == [refused[0]] * first.count
    assert refused[0].startswith(f"--out {tmp_path / 'out'}: another run of this experiment writes there; wait for")
    assert contents(tmp_path / "out") == contents(whole)


def test_a_lock_that_a_killed_run_has_left_holds_no_one_up(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    run_experiment(Squares(), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_an_experiment_of_which_nothing_could_be_measured_says_why(tmp_path: Path) -> None:
    def fail(unit: str) -> None:
        raise InputError("no scans")

    with pytest.raises(InputError, match=r"none of 5 units .*u-0: no scans; u-1"):
        run_experiment(Squares(before=fail), tmp_path / "out")


@pytest.mark.parametrize("names", [["a", "a"], ["a/b"], [".."], ["a.json"], [""]])
def test_units_that_cannot_name_files_are_a_fault(names: list[str], tmp_path: Path) -> None:
    class Named(Squares):
        def units(self) -> Sequence[str]:
            return names

    with pytest.raises(ValueError, match="cannot name its files"):
        run_experiment(Named(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_ranks_share_the_units_and_find_the_same(
    launch: Callable[..., list[str]], whole: Path, tmp_path: Path
) -> None:
    command = [*launch(2), __file__, str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (1, "4 1\n"), ended.stderr
    assert contents(tmp_path / "out") == contents(whole)


def wait_for_another(out: Path, unit: str) -> None:
    """The first unit ends only when the second stands, which another rank must do meanwhile."""
    assert (out / ".lock").exists()  # rank 0 holds the folder for both
    while unit == "u-0" and not (out / "rows" / "u-1.json").exists():
        time.sleep(0.01)


def run_rank(out: Path) -> int:
    """What every rank does, as the command line will."""
    asked = Squares()
    with open_ranks() as ranks:
        result = run_experiment(replace(asked, before=lambda unit: wait_for_another(out, unit)), out, ranks)
    if ranks.is_root:
        print(result.done, len(result.failed), flush=True)
    return int(bool(result.failed))


if __name__ == "__main__":
    sys.exit(run_rank(Path(sys.argv[1])))
