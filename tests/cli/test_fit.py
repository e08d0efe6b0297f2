"""fit and fit-prior as a user calls them: what is printed, what is refused and how, and what is left standing."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tumorcast.archive.growth_file import read_growth
from tumorcast.cli.main import app
from tumorcast.data.cohort import Cohort
from tumorcast.errors import TumorcastError
from tumorcast.growth.prior import SizePrior, read_prior, shipped_prior

HEADER = "patient_id,day,area_mm2,rt_start_day,rt_end_day\n"
GOOD = "".join(f"Z,{day},{size},10,52\n" for day, size in [(0, 400), (60, 700), (120, 500), (200, 600)])
FAST = ("--replicates", "10", "--search", "quick")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def last_json(result: Result, code: int = 0) -> dict[str, Any]:
    assert result.exit_code == code, (result.output, result.exception)
    record: dict[str, Any] = json.loads(result.stdout.splitlines()[-1], parse_constant=pytest.fail)  # NaN is not JSON
    return record


def refused(code: int, *arguments: object) -> str:
    fault = run(*arguments).exception
    assert isinstance(fault, TumorcastError) and fault.exit_code == code, fault
    return str(fault)


def table(folder: Path, text: str) -> Path:
    path = folder / "sizes.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("A,0,-5,,\n", "line 2: 'area_mm2' is -5; a size is zero or more"),
        ("A,0,nan,,\n", "line 2: 'area_mm2' is 'nan', not a finite number"),
        ("A,0,large,,\n", "line 2: 'area_mm2' is 'large', not a number"),
        ("A,7,10,,\nA,7,11,,\n", "lines 2 and 3: patient A has two sizes on day 7"),
        ("A,0,10,52,10\n", "radiotherapy ends on day 10, before its start on day 52"),
        ("A,,10,,\n", "line 2: 'day' is empty; every scan needs its day"),
    ],
)
def test_a_fault_in_a_patients_rows(tmp_path: Path, rows: str, message: str) -> None:
    """Alone it ends the command; beside others it fails that patient, and they are fitted."""
    assert message in refused(3, "fit", table(tmp_path, HEADER + rows), "--out", tmp_path / "growth.h5")
    assert not (tmp_path / "growth.h5").exists()
    result = run("fit", table(tmp_path, HEADER + rows + GOOD), "--out", tmp_path / "growth.h5", *FAST, "--json")
    record = last_json(result, code=1)
    assert (record["patients"], record["ok"], record["failed"]) == (2, 1, 1)
    assert message in result.stderr and "A: failed: " in result.stderr
    assert list(read_growth(tmp_path / "growth.h5")) == ["Z"]
    status = (tmp_path / "growth.status.tsv").read_text().splitlines()
    assert status[1].startswith("Z\tok") and status[2].startswith("A\tfailed\t") and message in status[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header with patient_id, day, area_mm2"),
        (HEADER, "has a header and no rows"),
        ("id,when,area_mm2\nA,0,5\n", "no column 'patient_id', 'day'; found 'id', 'when', 'area_mm2'"),
    ],
)
def test_a_fault_of_the_table(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(3, "fit", table(tmp_path, text), "--out", tmp_path / "growth.h5")


def test_what_is_odd_and_valid(tmp_path: Path) -> None:
    """One scan, complete responses, no radiotherapy, rows in any order, days before zero."""
    rows = "one,-500,300,,\ngone,90,0,,\ngone,-30,200,,\ngone,30,0,,\nzero,0,0,,\nzero,9,0,,\n"
    record = last_json(run("fit", table(tmp_path, HEADER + rows), "--out", tmp_path / "growth.h5", *FAST, "--json"))
    assert (record["patients"], record["ok"], record["failed"]) == (3, 3, 0)
    fits = read_growth(tmp_path / "growth.h5")
    assert list(fits) == ["one", "gone", "zero"] and fits["gone"].series.days.tolist() == [-30.0, 30.0, 90.0]
    for name in fits:
        ahead = fits.forecast(name).trajectories(fits[name].series.days[-1:] + 90.0)
        assert np.isfinite(ahead).all() and (ahead >= 0).all()


def test_a_name_that_cannot_stand_in_a_table_fails_its_patient(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER + '"A\tB",0,5,,\n' + GOOD)
    result = run("fit", path, "--out", tmp_path / "growth.h5", *FAST, "--json")
    assert last_json(result, code=1)["failed"] == 1 and "without slashes, tabs and line breaks" in result.stderr


@pytest.mark.slow
def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    """Most are of the patient with the fault, who is read and not fitted."""
    rows = "".join(f"P{k // 95_000},{k},{100 + k % 7},,\n" for k in range(100_000))
    record = last_json(
        run("fit", table(tmp_path, HEADER + rows.replace("P0,7,", "P0,7,-") + GOOD), "--held-out", "last",
            "--forecaster", "persistence", "--prior", "shipped", "--preset", "paper", "--method", "native", "--search",
            "quick", "--replicates", "1", "--json"), code=1,
    )  # fmt: skip
    assert (record["patients"], record["ok"], record["failed"], record["scans_scored"]) == (3, 2, 1, 2)


def test_columns_can_be_named_and_must_then_be_there(tmp_path: Path) -> None:
    text = GOOD.replace("Z,", "Q,")
    path = table(tmp_path, "who,when,how_large_mm2,first,last\n" + text)
    named = ("--id-column", "who", "--day-column", "when", "--size-column", "how_large_mm2")
    treated = ("--rt-start-column", "first", "--rt-end-column", "last")
    last_json(run("fit", path, *named, *treated, "--out", tmp_path / "growth.h5", *FAST, "--json"))
    (fit,) = read_growth(tmp_path / "growth.h5").values()
    assert fit.series.size_name == "how_large_mm2" and fit.series.treatment.radiotherapy[0].end_days == 52.0
    missing = ("--rt-dose-column", "gray")
    assert "no column 'gray'; found 'who'" in refused(3, "fit", path, *named, *missing, "--out", tmp_path / "g.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to do; give --out growth.h5, --answers, --held-out, --min-scans or --plots"),
        (("--out", "g.h5", "--held-out-csv", "f.csv"), "--held-out-csv needs --held-out"),
        (("--out", "g.h5", "--by-days", "30"), "--by-days needs --answers FILE.csv"),
        (("--out", "g.h5", "--exceeds", "30"), "--exceeds needs --answers FILE.csv"),
        (("--answers", "a.csv", "--by-days", "30,soon"), "--by-days 30,soon: give days after the last scan"),
        (("--answers", "a.csv", "--by-days", "0,30"), "--by-days 0,30: 0 is not over 0 and at most 3650 days"),
        (("--answers", "a.csv", "--by-days", "nan"), "--by-days nan: nan is not over 0"),
        (("--answers", "a.csv", "--exceeds", "-1"), "--exceeds -1: give a size, zero or more"),
        (("--answers", "a.csv", "--prior", "leave-one-out"), "leave out --out, --plots and --answers"),
        (("--answers", "sizes.csv"), "--answers sizes.csv: sizes.csv is read; give another file"),
        (("--held-out", "first"), "--held-out first: allowed are rolling, last"),
        (("--out", "g.h5", "--preset", "mine"), "--preset mine: allowed are default, paper"),
        (("--out", "g.h5", "--search", "slow"), "--search slow: allowed are thorough, quick"),
        (("--out", "g.h5", "--replicates", "0"), "replicates = 0"),
        (("--out", "g.h5", "--prior", "none", "--forecaster", "pooled"), "--forecaster pooled needs a prior"),
        (("--out", "g.h5", "--prior", "leave-one-out"), "--prior leave-one-out is for --held-out"),
        (("--out", "g.h5", "--method", "lmfit", "--search", "quick"), "--search is of --method native"),
        (("--out", "g.h5", "--forecaster", "all"), "--forecaster all: allowed are"),
        (("--out", "sizes.csv"), "--out sizes.csv: sizes.csv is read; give another file"),
        (("--out", "g.h5", "--prior", "g.h5"), "--out g.h5: g.h5 is read"),
        (("--out", "."), "--out .: is a folder"),
        (("--out", "f", "--held-out", "last", "--held-out-csv", "f"), "--held-out-csv f: is written by --out"),
    ],
)
def test_options_that_contradict_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path, HEADER + GOOD)
    assert message in refused(2, "fit", "sizes.csv", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["sizes.csv"]
    assert (tmp_path / "sizes.csv").read_text() == HEADER + GOOD


def test_a_prior_that_is_none(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER + GOOD)
    message = refused(3, "fit", path, "--held-out", "last", "--prior", tmp_path / "no.json")
    assert "no.json: cannot be read" in message and "tumorcast fit-prior" in message
    (tmp_path / "no.json").write_text("{}")
    message = refused(3, "fit", path, "--out", tmp_path / "g.h5", "--prior", tmp_path / "no.json")
    assert "no.json: not a prior of this version (source: Field required)" in message


def test_without_a_prior_persistence_has_no_score(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER + GOOD)
    record = last_json(run("fit", path, "--held-out", "last", "--prior", "none", *FAST, "--json"))
    assert record["forecaster"] == "mechanistic" and record["crps"] > 0
    assert record["crps_persistence"] is record["mae_persistence"] is record["coverage90_persistence"] is None


@pytest.mark.slow
def test_the_sizes_of_a_cohort_file(blob_cohort: Path, tmp_path: Path) -> None:
    """All that a table can be asked for."""
    asked = ("--out", tmp_path / "g.h5", "--held-out", "last", "--held-out-csv", tmp_path / "f.csv")
    shown = ("--plots", tmp_path / "plots", "--min-scans", tmp_path / "study")
    record = last_json(run("fit", blob_cohort, "--size-column", "volume_mm3", *asked, *shown, *FAST, "--json"))
    assert (record["patients"], record["failed"], record["size"]) == (3, 0, "volume_mm3")
    growth = read_growth(tmp_path / "g.h5")
    assert growth["B"].series.size_name == "volume_mm3" and growth["B"].series.treatment.radiotherapy
    with (tmp_path / "f.csv").open(newline="") as file:
        days = {row["patient_id"]: row["day"] for row in csv.DictReader(file)}
    assert days["A"] == days["B"] == "120"
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {f"{name}.png" for name in growth}
    assert "--size-column length: allowed are" in refused(2, "fit", blob_cohort, "--size-column", "length", *asked)


def test_nothing_to_score_and_nothing_to_study(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER + "A,0,5,,\nB,0,7,,\n")
    record = last_json(run("fit", path, "--held-out", "rolling", "--min-scans", tmp_path, *FAST, "--json"))
    assert (record["scans_scored"], record["crps"]) == (0, None)
    assert len((tmp_path / "min_scans.csv").read_text().splitlines()) == 1


def test_held_out_scans_are_forecast_and_scored(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER + GOOD + "B,0,300,,\nB,50,0,,\nB,90,200,,\n")
    record = last_json(run("fit", path, "--held-out", "rolling", "--held-out-csv", tmp_path / "f.csv", *FAST, "--json"))
    assert {"crps", "crps_persistence", "mae", "mae_persistence", "coverage90"} < set(record)
    assert (record["patients"], record["ok"], record["failed"], record["scans_scored"]) == (2, 2, 0, 3)
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["patient_id"], row["day"]) for row in rows] == [("Z", "120"), ("Z", "200"), ("B", "90")]
    assert {f"q{level:02d}" for level in range(5, 100, 5)} < set(rows[0])


def test_what_clinicians_ask_is_answered(tmp_path: Path) -> None:
    """A row a patient and horizon; the patient without radiotherapy has a reason for what is not known."""
    path, out = table(tmp_path, HEADER + GOOD + "B,0,300,,\nB,50,0,,\n"), tmp_path / "answers.csv"
    asked = ("--answers", out, "--by-days", "180,30", "--exceeds", "900")
    record = last_json(run("fit", path, *asked, *FAST, "--json"))
    assert (record["ok"], record["failed"], record["answers"]) == (2, 0, str(out))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["patient_id"], row["horizon_days"]) for row in rows] == [
        ("Z", "30"), ("Z", "180"), ("B", "30"), ("B", "180"),
    ]  # fmt: skip
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in row if name.startswith("p_"))
    assert [(row["baseline"], row["nadir"]) for row in rows[::2]] == [("700", "500"), ("300", "0")]
    assert rows[0]["days_gained"] != "" and rows[0]["days_gained_why_not"] == ""
    assert rows[2]["days_gained"] == "" and rows[2]["days_gained_why_not"] == "no course of radiotherapy is known"
    last_json(run("fit", path, "--answers", out, *FAST, "--json"))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["horizon_days"] for row in rows[:3]] == ["30", "90", "180"] and rows[0]["p_exceeds_at"] == ""


def cohort_rows(sizes: tuple[int, ...]) -> str:
    return "".join(f"P{k},{60 * n},{size + k},,\n" for k in range(12) for n, size in enumerate(sizes))


def test_a_cohort_unlike_the_prior_is_told_and_what_to_do(tmp_path: Path) -> None:
    """Sizes that leap from scan to scan as no glioma of the shipped prior does; calm ones, as many do."""
    asked = ("--held-out", "last", "--forecaster", "persistence", *FAST, "--json")
    leaping = run("fit", table(tmp_path, HEADER + cohort_rows((20, 30_000, 15, 40_000))), *asked)
    told = last_json(leaping)["surprise"]
    assert told["looks_unlike"] is True and told["patients"] == 12 and told["mean"] > told["usual"]
    (line,) = (line for line in leaping.stderr.splitlines() if "looks unlike" in line)
    assert line.startswith("warning: ") and "tumorcast fit-prior" in line and f"{told['mean']:.2f} nats" in line
    calm = run("fit", table(tmp_path, HEADER + cohort_rows((400, 430, 410, 450))), *asked)
    assert last_json(calm)["surprise"]["looks_unlike"] is False and "looks unlike" not in calm.stderr


def test_nothing_is_unlike_a_prior_of_its_own_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_the_others(*_: object, **options: object) -> SizePrior:
        assert options["to_compare"] is False  # nothing would look at it
        return shipped_prior().for_size("area_mm2")

    monkeypatch.setattr("tumorcast.growth.model.estimate_prior", of_the_others)
    path = table(tmp_path, HEADER + cohort_rows((20, 30_000, 15, 40_000)))
    for prior in ("none", "leave-one-out"):
        result = run("fit", path, "--held-out", "last", "--prior", prior, *FAST, "--json")
        assert last_json(result)["surprise"] is None and "looks unlike" not in result.stderr


@pytest.mark.slow
def test_the_papers_fit_and_the_study(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER + GOOD)
    record = last_json(run("fit", path, "--preset", "paper", "--replicates", 2, "--out", tmp_path / "g.h5", "--json"))
    assert record["forecaster"] == "mechanistic"
    assert read_growth(tmp_path / "g.h5")["Z"].loss_name == "paper"
    last_json(run("fit", path, "--min-scans", tmp_path / "study", "--plots", tmp_path / "plots", *FAST, "--json"))
    assert sorted(one.name for one in (tmp_path / "study").iterdir()) == ["min_scans.csv", "min_scans.png"]
    assert [one.name for one in (tmp_path / "plots").iterdir()] == ["Z.png"]


@pytest.mark.slow
def test_a_prior_is_learnt_and_used(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = "".join(
        f"P{k},{60 * place + k},{rng.lognormal(9, 0.5):.0f},{rng.lognormal(9, 0.5):.0f}\n"
        for k in range(11)
        for place in range(4)
    )
    path = table(tmp_path, "patient_id,day,core_mm3,rim_mm3\n" + rows)
    sizes = ("--size-column", "core_mm3", "--companion", "core_mm3=rim_mm3")
    record = last_json(run("fit-prior", path, *sizes, "--out", tmp_path / "prior.json", "--json"))
    assert record["sizes"]["core_mm3"]["patients"] == 11
    assert read_prior(tmp_path / "prior.json").companion_of("core_mm3") == "rim_mm3"
    fitted = ("--size-column", "core_mm3", "--prior", tmp_path / "prior.json", "--out", tmp_path / "g.h5")
    last_json(run("fit", path, *fitted, *FAST, "--json"))
    growth = read_growth(tmp_path / "g.h5")
    assert growth.forecaster == "combined" and growth["P0"].series.companion is not None
    assert len(growth.forecast("P0").contributions(1000.0)) == 6
    assert "is read; give another file" in refused(2, "fit-prior", path, *sizes, "--out", path)
    assert "SIZE=COLUMN" in refused(2, "fit-prior", path, "--size-column", "core_mm3", "--companion", "x", "--out", "p")
    few = table(tmp_path, "patient_id,day,core_mm3\nA,0,5\nA,9,6\n")
    assert "1 patient with two scans of 'core_mm3'" in refused(
        3, "fit-prior", few, "--size-column", "core_mm3", "--out", tmp_path / "p.json"
    )


def test_the_weights_of_laws_are_printed_by_plain_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = shipped_prior().for_size("enhancing_mm3")
    monkeypatch.setattr("tumorcast.growth.estimate_prior.estimate_prior", lambda *_, **__: known)
    path = table(tmp_path, "patient_id,day,core_mm3\nA,0,5\nA,9,6\n")
    result = run("fit-prior", path, "--size-column", "core_mm3", "--out", tmp_path / "prior.json")
    assert result.exit_code == 0, result.output
    assert "exponential 0, logistic 0, gompertz 0" in result.stdout and "LawName" not in result.stdout


def test_a_growth_file_of_other_settings_or_another_table_is_not_overwritten(tmp_path: Path) -> None:
    path, out = table(tmp_path, "patient_id,day,area_mm2,other_mm2\nZ,0,400,40\nZ,60,700,70\n"), tmp_path / "growth.h5"
    first = last_json(run("fit", path, "--out", out, *FAST, "--json"))
    written = out.read_bytes()
    for options, named in {
        ("--seed", "1"): "settings.seed = 0 there, but 1 now",
        ("--size-column", "other_mm2"): "columns.size = 'area_mm2' there, but 'other_mm2' now",
        ("--forecaster", "mechanistic"): "forecaster = 'combined' there, but 'mechanistic' now",
        ("--prior", "none"): "there, but 'mechanistic' now",
    }.items():
        message = refused(2, "fit", path, "--out", out, *FAST, *options)
        assert named in message and "remove it or give another --out" in message
    record = last_json(run("fit", path, "--out", out, *FAST, "--held-out", "last", "--json"))
    assert {name: record[name] for name in first} == first and record["scans_scored"] == 1
    table(tmp_path, HEADER + GOOD)
    assert "source_sha256 = " in refused(2, "fit", path, "--out", out, *FAST)
    assert out.read_bytes() == written


def test_what_is_no_growth_file_is_not_overwritten(tmp_path: Path, blob_cohort: Path) -> None:
    path, out = table(tmp_path, HEADER + GOOD), tmp_path / "thesis.txt"
    out.write_text("years of work")
    assert "thesis.txt" in (message := refused(2, "fit", path, "--out", out, *FAST)) and "not overwritten" in message
    assert out.read_text() == "years of work"
    before = blob_cohort.read_bytes()
    assert "not overwritten" in refused(2, "fit", path, "--out", blob_cohort, *FAST)
    assert blob_cohort.read_bytes() == before


def test_a_balance_tells_of_every_scan(tmp_path: Path) -> None:
    """Rows of treatment alone, scans without a size, patients who fail and one of whom nothing was measured."""
    header = "patient_id,day,area_mm2,rt_start_day,rt_start,Surgery day,age\n"
    rows = "A,0,400,,,,50\nA,60,,,,,\nA,90,500,,,,\nB,,,10,,,\nB,0,300,,,,\nC,0,300,,,,\nC,9,-1,,,,\nD,0,,,,,\n"
    result = run("fit", table(tmp_path, header + rows), "--out", tmp_path / "g.h5", *FAST, "--json")
    balance = last_json(result, code=1)["balance"]
    assert balance.pop("hints") == [one.partition(": ")[2] for one in hinted(result)]
    assert balance == {
        "rows": 8,
        "patients": 4,
        "patients_used": 2,
        "scans": 7,
        "scans_used": 3,
        "left_out": {"no size": {"A": 1}, "patient failed": {"C": 2}, "patient skipped": {"D": 1}},
        "known": {"radiotherapy": 1, "chemotherapy": 0, "resection": 0},
    }
    assert "radiotherapy known for 1 of 2 patients, chemotherapy known for 0 of 2 patients" in result.stderr
    assert "1 scan left out, no size: A (1)" in result.stderr
    (surgery,) = hinted(result)  # rt_start_day is read, so that rt_start is not taken for it
    assert "'Surgery day'" in surgery and "resection_day" in surgery and "--resection-column" in surgery


def hinted(result: Result) -> list[str]:
    """The warnings of columns that are not read, without the word."""
    return [line.removeprefix("warning: ") for line in result.stderr.splitlines() if line.startswith("warning: ")]


def test_columns_that_look_like_treatment_are_told(tmp_path: Path) -> None:
    path = table(tmp_path, GOOD.replace("Z,0", "patient_id,day,area_mm2,RT start,rt_end_date\nZ,0", 1))
    start, end = hinted(run("fit", path, "--out", tmp_path / "g.h5", *FAST))
    assert "'RT start'" in start and "rt_start_day" in start and "--rt-start-column" in start
    assert "'rt_end_date'" in end and "days" in end and "rt_end_day" in end
    named = ("--rt-start-column", "RT start", "--rt-end-column", "rt_end_date")
    result = run("fit", path, "--out", tmp_path / "named.h5", *FAST, *named)
    assert hinted(result) == [] and "radiotherapy known for 1" in result.stderr


def test_the_balance_of_a_cohort_file(blob_cohort: Path, tmp_path: Path) -> None:
    record = last_json(run("fit", blob_cohort, "--out", tmp_path / "g.h5", *FAST, "--json"))
    balance = record["balance"]
    assert (balance["rows"], balance["patients"], balance["scans"], balance["scans_used"]) == (None, 3, 7, 7)
    assert balance["known"]["radiotherapy"] == 1 and balance["left_out"] == {} and balance["hints"] == []


def test_before_the_last_scan(blob_cohort: Path, tmp_path: Path) -> None:
    """Of a cohort, as its forecasts are; a table is the user's own to cut, and a fit of all scans is another one."""
    fit, growth = ("fit", blob_cohort, "--size-column", "volume_mm3", *FAST), tmp_path / "growth.h5"
    last_json(run(*fit, "--out", growth, "--before-last-scan", "--json"))
    with Cohort.open(blob_cohort) as cohort:
        fits = read_growth(growth)
        for patient_id in fits:
            days = [info.day for info in cohort.sessions(patient_id)]
            assert fits[patient_id].series.days.tolist() == days[:-1]
    assert "columns.before_last_scan = True there" in refused(2, *fit, "--out", growth)
    sizes = table(tmp_path, HEADER + GOOD)
    assert "leave the rows of last scans out" in refused(2, "fit", sizes, "--out", growth, "--before-last-scan")
