"""The job of `tumorcast fit` on one rank: every patient is fitted, forecast and drawn, or has a reason (ranks: mpi).

Only one fit is in memory at a time.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorcast.archive.growth_file import read_growth
from tumorcast.errors import InputError, StorageError
from tumorcast.growth.heldout import HeldOut
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.prior import SizePrior, shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import FitStatus, Forecaster, GrowthFit, LawName, PatientOutcome, SizeSeries, Status
from tumorcast.running.growth_job import GrowthJob, fit_cohort_to, run_growth_job
from tumorcast.running.ranks import Ranks

ALONE = Ranks()


def series(patient_id: str, scans: int = 3) -> SizeSeries:
    return SizeSeries(patient_id, "area_mm2", np.arange(scans) * 30.0, np.full(scans, 100.0))


def fake_fit(one: SizeSeries, replicates: int = 4, notes: tuple[str, ...] = ()) -> GrowthFit:
    return GrowthFit(
        series=one,
        law=LawName.EXPONENTIAL,
        parameter_names=("rate_per_day", "initial_size"),
        parameters=np.array([0.01, 100.0]),
        replicates=np.full((replicates, 2), 0.5),  # not zeros, which take no memory
        replicate_status=np.zeros(replicates, dtype=np.uint8),
        loss=0.0,
        loss_name="log_squares",
        status=FitStatus.CONVERGED,
        origin_day=0.0,
        deviations=np.full(replicates, 0.5),
        notes=notes,
    )


def test_every_patient_is_fitted_and_reported(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    out, patients = tmp_path / "growth.h5", [series("P2"), series("P1"), series("P3", scans=9)]
    outcomes = fit_cohort_to(
        out,
        patients,
        lambda one: fake_fit(one, notes=("a drop", "another") if one.patient_id == "P1" else ()),
        {"seed": 0},
        ALONE,
        forecaster="pooled",
        prior="{}",
        left_out=[PatientOutcome("P4", Status.SKIPPED, "no scan with a tumour mask")],
        report=lambda done, total: reports.append((done, total)),
    )
    assert [(o.patient_id, o.status, o.reason) for o in outcomes] == [
        ("P2", Status.OK, ""),
        ("P1", Status.OK, "a drop; another"),
        ("P3", Status.OK, ""),
        ("P4", Status.SKIPPED, "no scan with a tumour mask"),
    ]
    assert reports == [(1, 3), (2, 3), (3, 3)]
    file = read_growth(out)
    assert (list(file), file.provenance, file.forecaster, file.prior) == (
        ["P2", "P1", "P3"],
        {"seed": 0},
        "pooled",
        "{}",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["growth.h5", "growth.status.tsv"]
    rows = (tmp_path / "growth.status.tsv").read_text().splitlines()
    assert rows[0] == "patient_id\tstatus\treason"
    assert rows[2:] == ["P1\tok\ta drop; another", "P3\tok\t", "P4\tskipped\tno scan with a tumour mask"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(ValueError("bad\n\tvalue"), "ValueError: bad value"), (InputError("P1: no size"), "P1: no size")],
)
def test_a_patient_whose_fit_raises_fails_alone(fault: Exception, reason: str, tmp_path: Path) -> None:
    def fit(one: SizeSeries) -> GrowthFit:
        if one.patient_id == "P1":
            raise fault
        return fake_fit(one)

    first, second = fit_cohort_to(tmp_path / "growth.h5", [series("P1"), series("P2")], fit, {}, ALONE)
    assert first == PatientOutcome("P1", Status.FAILED, reason)
    assert second.status is Status.OK
    assert list(read_growth(tmp_path / "growth.h5")) == ["P2"]
    assert "P1\tfailed\t" + reason in (tmp_path / "growth.status.tsv").read_text()


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    def fit(one: SizeSeries) -> GrowthFit:
        raise StorageError("no room")

    with pytest.raises(StorageError, match="no room"):
        fit_cohort_to(tmp_path / "growth.h5", [series("P1")], fit, {}, ALONE)
    assert not (tmp_path / "growth.h5").exists()


def test_a_place_that_cannot_be_written_to_is_told_before_the_first_fit(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        fit_cohort_to(tmp_path / "file" / "growth.h5", [series("P1")], lambda _: pytest.fail("fitted"), {}, ALONE)


def test_what_a_stopped_run_of_more_ranks_left_is_cleared_but_nothing_else(tmp_path: Path) -> None:
    parts = tmp_path / "growth.h5.parts"
    parts.mkdir()
    for name in ("rank-7.h5", "rank-7.status.tsv", ".rank-8.h5.123.partial", "notes.txt"):
        (parts / name).touch()
    fit_cohort_to(tmp_path / "growth.h5", [series("P1")], fake_fit, {}, ALONE)
    assert [path.name for path in parts.iterdir()] == ["notes.txt"]


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    patients = [series("P1"), series("P2", scans=40)]
    for name in ("a.h5", "b.h5"):
        fit_cohort_to(tmp_path / name, patients, lambda one: fake_fit(one, replicates=200_000), {}, ALONE)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_million_replicates_a_patient_are_held_one_patient_at_a_time(tmp_path: Path) -> None:
    """In a process of its own, for its peak. A patient is 25 MB here, and six of them are 150 MB."""
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; import numpy as np\n"
        "from test_growth_job import ALONE, fake_fit, fit_cohort_to, series\n"
        "patients = [series(f'P{k}') for k in range(6)]\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "fit_cohort_to(Path(sys.argv[1]), patients, lambda one: fake_fit(one, 1_000_000), {}, ALONE)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    command = [sys.executable, "-B", "-c", script, str(tmp_path / "growth.h5"), str(Path(__file__).parent)]
    megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(megabytes) < 60


QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
PATIENTS = tuple(
    SizeSeries(name, "enhancing_mm3", np.arange(4) * 60.0, np.array(sizes))
    for name, sizes in {"A": [900.0, 1200, 700, 800], "B": [5000.0, 0, 0, 100], "C": [50.0, 60, 70, 80]}.items()
)


def job_in(folder: Path, prior_for: Callable[[SizeSeries], SizePrior | None] | None = None) -> GrowthJob:
    (folder / "sizes.csv").touch()
    model = GrowthModel(QUICK, Forecaster.POOLED, prior_for or fixed_prior(shipped_prior()))
    return GrowthJob(
        folder / "sizes.csv", folder / "growth.h5", PATIENTS, [], model, shipped_prior().to_json(), HeldOut.ROLLING
    )


def fates(outcomes: object) -> dict[str, Status]:
    return {outcome.patient_id: outcome.status for outcome in outcomes}  # type: ignore[attr-defined]


def test_all_that_is_asked_for(tmp_path: Path) -> None:
    drawn: list[str] = []
    job = replace(
        job_in(tmp_path),
        held_out_csv=tmp_path / "f.csv",
        min_scans=tmp_path / "study",
        draw=lambda series: drawn.append(series.patient_id),
        left_out=[PatientOutcome("D", Status.SKIPPED, "no scan"), PatientOutcome("E", Status.FAILED, "no number")],
    )
    result = run_growth_job(job, Ranks(), lambda done, total: None)
    assert fates(result.outcomes) == dict(zip("ABCDE", ["ok", "ok", "ok", "skipped", "failed"], strict=True))
    counts = [result.figures[name] for name in ("patients", "ok", "failed", "scans_scored")]
    assert counts == [5, 3, 1, 6] and drawn == ["A", "B", "C"]
    assert sum(result.figures["status"].values()) == 3
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 7
    assert [row["scans_scored"] for row in result.tables["all targets"]] == [9, 6, 3]
    growth = read_growth(tmp_path / "growth.h5")
    assert list(growth) == ["A", "B", "C"] and growth.provenance["settings"]["replicates"] == 20
    forecast = growth.forecast("A").predicted(300.0, np.array([0.1, 0.5]))
    np.testing.assert_allclose(forecast, job.model.forecast(PATIENTS[0]).predicted(300.0, np.array([0.1, 0.5])))


def test_a_patient_that_fails_leaves_the_others(tmp_path: Path) -> None:
    def prior_for(series: SizeSeries) -> SizePrior:
        if series.patient_id == "B":
            raise ArithmeticError("singular")
        return shipped_prior().for_size(series.size_name)

    result = run_growth_job(job_in(tmp_path, prior_for), Ranks(), lambda done, total: None)
    assert fates(result.outcomes) == {"A": Status.OK, "B": Status.FAILED, "C": Status.OK}
    assert result.outcomes[1].reason == "ArithmeticError: singular"
    assert (result.figures["failed"], result.figures["scans_scored"]) == (1, 4)
    assert list(read_growth(tmp_path / "growth.h5")) == ["A", "C"]


def test_a_picture_that_fails_is_its_patients(tmp_path: Path) -> None:
    drawn: list[str] = []

    def draw(series: SizeSeries) -> None:
        if series.patient_id == "A":
            raise ValueError("no room for the legend")
        drawn.append(series.patient_id)

    job = replace(job_in(tmp_path), out=None, held_out=None, draw=draw)
    result = run_growth_job(job, Ranks(), lambda done, total: None)
    assert fates(result.outcomes) == {"A": Status.FAILED, "B": Status.OK, "C": Status.OK} and drawn == ["B", "C"]
    assert (result.figures["ok"], result.figures["failed"]) == (2, 1)


def test_a_full_disk_ends_the_job(tmp_path: Path) -> None:
    def draw(series: SizeSeries) -> None:
        raise StorageError("plots: no room")

    with pytest.raises(StorageError, match="no room"):
        run_growth_job(replace(job_in(tmp_path), draw=draw), Ranks(), lambda done, total: None)
