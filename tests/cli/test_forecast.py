"""The commands forecast, plan and status as a user starts them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tumorcast.cli.main import app
from tumorcast.cli.progress import CohortProgress
from tumorcast.errors import InputError, UsageError
from tumorcast.running.work_queue import Tally

FEW = ["--members", "3", "--steps", "2", "--max-slices", "1"]


def run(*words: object, code: int = 0) -> dict[str, object]:
    """The object that a command prints with --json."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--preset", "paper"], "--preset"),
        (["--steps", "2", "--seed", "1"], "--steps, --seed"),
        (["--max-slices", "1", "--keep-members"], "--max-slices, --keep-members"),
        (["--batch", "2", "--no-keep-members"], "--batch"),
        (["--precision", "bf16"], "--precision"),
        (["--config", "given.toml"], "order of given.toml, block of given.toml"),
    ],
)
def test_maps_alone_refuse_what_is_of_images(
    options: list[str], named: str, blob_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("given.toml").write_text("members = 2\nblock = 8\n[sampler]\norder = 1\n", encoding="utf-8")
    command = ["forecast", str(blob_cohort), "--maps-only", "--relative-change", "0.2", "--out", "maps.h5", *options]
    refusal = CliRunner().invoke(app, command).exception
    assert isinstance(refusal, UsageError) and f"--maps-only with {named}: " in str(refusal)


@pytest.mark.slow
def test_shards_are_merged_later_into_the_same_archive(blob_cohort: Path, random_bundle: Path, tmp_path: Path) -> None:
    command = ["forecast", blob_cohort, "--model", random_bundle, "--relative-change", "0.25", *FEW]
    run(*command, "--out", tmp_path / "at_once.h5")
    out = tmp_path / "later.h5"
    run(*command, "--out", out, "--no-merge")
    assert not out.exists()
    told = run("status", out)
    assert (told["state"], told["units"], told["done"], told["failed"]) == ("complete", 2, 2, 0)
    assert told == run("status", tmp_path / "later.h5.parts") | {"unheard_seconds": told["unheard_seconds"]}
    run("archive", "verify", tmp_path / "later.h5.parts")
    assert run("archive", "merge", out, "--portable")["patients"] == {"ok": 2, "failed": 0, "skipped": 1}
    digests = {run("archive", "digest", path)["digest"] for path in (out, tmp_path / "at_once.h5")}
    assert len(digests) == 1
    assert run("status", out)["state"] == "merged"


@pytest.mark.slow
def test_a_merged_run_has_the_units_and_members_it_had(blob_cohort: Path, random_bundle: Path, tmp_path: Path) -> None:
    """Slices that share a unit, and members that are dealt to several, count as while the run went on."""
    command = ["forecast", blob_cohort, "--model", random_bundle, "--relative-change", "0.25", "--steps", "2"]
    command += ["--max-slices", "2"]
    for members, block, units in ((2, 64, 2), (3, 2, 4)):  # two slices of two patients
        out = tmp_path / f"{members}.h5"
        run(*command, "--members", members, "--block", block, "--out", out, "--no-merge")
        before = run("status", out)
        run("archive", "merge", out)
        after = run("status", out)
        assert (before["units"], before["done"]) == (after["units"], after["done"]) == (units, units)
        info = run("archive", "info", out)
        assert (info["members"], info["slices"], info["patients"]) == (members, 4, 2)


@pytest.mark.slow
def test_a_plan_counts_and_computes(blob_cohort: Path, random_bundle: Path) -> None:
    told = run("plan", blob_cohort, "--engine", random_bundle, *FEW, "--samples-per-second", 0.5, "--hours", 0.1)
    assert {name: told[name] for name in ("patients", "slices", "units", "images")} == {
        "patients": 2,
        "slices": 2,
        "units": 2,
        "images": 6,
    }
    assert told["rank_hours"] == pytest.approx(6 / 0.5 / 3600, abs=1e-3)
    assert told["longest_unit_seconds"] == 6.0
    assert told["ranks"] == 1
    assert str(told["sbatch"]).startswith("sbatch --nodes=1 --gres=gpu:1 --time=00:15:00 slurm/forecast_cohort.sh ")


@pytest.mark.slow
def test_a_plan_measures_where_no_speed_is_given(blob_cohort: Path, random_bundle: Path) -> None:
    told = run("plan", blob_cohort, "--engine", random_bundle, *FEW)
    assert float(str(told["images_a_second"])) > 0
    assert "% of the time" in str(told["dominates"])
    assert float(str(told["memory_a_rank_gb"])) > 0.05


def test_a_plan_of_nothing_is_refused(random_bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "none.h5"), "--engine", str(random_bundle)])
    assert result.exit_code != 0


def test_a_change_that_looks_like_per_cent_is_told(tmp_path: Path) -> None:
    """It is allowed, as real tumours grew so, and then there is no cohort here."""
    for change, told in (("5", "relative change 5: 6 times the present area; 5 % is 0.05"), ("0.5", "")):
        words = ["forecast", str(tmp_path / "none.h5"), "--model", "demo128", "--out", str(tmp_path / "maps.h5")]
        result = CliRunner().invoke(app, [*words, "--relative-change", change])
        assert result.stderr.strip() == told


def test_a_growth_file_that_is_not_there_is_no_fault_of_ours(
    blob_cohort: Path, random_bundle: Path, tmp_path: Path
) -> None:
    words = ["forecast", blob_cohort, "--model", random_bundle, "--horizon-days", 30, "--out", tmp_path / "maps.h5"]
    result = CliRunner().invoke(app, [*map(str, words), "--growth", str(tmp_path / "none.h5")])
    assert isinstance(result.exception, InputError) and "none.h5: no such file" in str(result.exception)


def test_a_log_gets_a_line_a_minute_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 30.0, 61.0, 100.0, 110.0])
    monkeypatch.setattr("tumorcast.cli.progress.time.monotonic", lambda: next(clock))
    with CohortProgress("units") as progress:
        for done in (1, 2, 3, 4):
            progress.tell(Tally(4, done))
    assert capsys.readouterr().err.splitlines() == [
        "2 of 4 units, 1.97 a minute, 61 s left",
        "4 of 4 units, 2.18 a minute, 0 s left",
    ]
