"""The job of `tumorcast fit` on one rank: every part is done for every patient, and one that fails is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorcast.archive.growth_file import read_growth
from tumorcast.errors import StorageError
from tumorcast.growth.heldout import HeldOut
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.prior import SizePrior, shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, PatientOutcome, SizeSeries, Status
from tumorcast.running.growth_job import GrowthJob, run_growth_job
from tumorcast.running.ranks import Ranks

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


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    def draw(series: SizeSeries) -> None:
        raise StorageError("plots: no room")

    with pytest.raises(StorageError, match="no room"):
        run_growth_job(replace(job_in(tmp_path), draw=draw), Ranks(), lambda done, total: None)
