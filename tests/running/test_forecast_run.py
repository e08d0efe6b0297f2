"""Cohort runs: resumed, refused, and never stopped by one patient."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from tests.fakes import write_growth
from tumorcast.archive.maps import MapArchive
from tumorcast.data.cohort import Cohort, SizeMeasure
from tumorcast.data.imaging.geometry import Grid, to_source_grid
from tumorcast.data.prepare import PrepareSettings, SliceChoice, prepare_cohort
from tumorcast.engines.opening import EngineChoice
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.forecasting.plan import PatientPlan, plan_patient
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, GrowthFit, Status
from tumorcast.running.forecast_run import ForecastInputs, ForecastResult, forecast_cohort, own_gpu
from tumorcast.running.ranks import Ranks
from tumorcast.running.status import run_status
from tumorcast.running.work_queue import Tally
from tumorcast.settings import ForecastSettings, Precision, Provider, SamplerSettings

pytestmark = pytest.mark.slow

SETTINGS = ForecastSettings(relative_change=0.25, members=3, batch=2, sampler=SamplerSettings(steps=2, noise_level=10))


@pytest.fixture
def inputs(blob_cohort: Path, random_bundle: Path) -> ForecastInputs:
    return ForecastInputs(blob_cohort, EngineChoice((random_bundle,)), None)


@pytest.fixture(scope="module")
def whole(
    blob_cohort: Path, random_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ForecastResult]:
    """The archive of a run that nothing disturbed, and what it told; not to be written to."""
    path = tmp_path_factory.mktemp("whole") / "maps.h5"
    return path, forecast_cohort(ForecastInputs(blob_cohort, EngineChoice((random_bundle,)), None), path, SETTINGS)


def test_half_precision_of_torch_is_told_and_not_gone_on_with_in_another(
    blob_cohort: Path, random_bundle: Path, tmp_path: Path
) -> None:
    def forecast(precision: Precision | None) -> ForecastResult:
        engine = EngineChoice((random_bundle,), Provider.TORCH, precision=precision)
        return forecast_cohort(ForecastInputs(blob_cohort, engine, None), tmp_path / "maps.h5", SETTINGS)

    statuses = {outcome.status for outcome in forecast(Precision.BF16).outcomes}
    assert Status.OK in statuses and Status.FAILED not in statuses
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        assert archive.provenance["engine"] == "torch bf16"
    for other in (Precision.FP16, None):
        with pytest.raises(UsageError, match="engine"):
            forecast(other)


def contents(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Attributes, and data with the attributes that are real numbers, by name."""
    attributes: dict[str, object] = {}
    data: dict[str, np.ndarray] = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        numbers = {key: value for key, value in node.attrs.items() if isinstance(value, np.floating)}
        data.update({f"{name}@{key}": np.asarray(value) for key, value in numbers.items()})
        attributes[name] = sorted((key, str(value)) for key, value in node.attrs.items() if key not in numbers)
        if isinstance(node, h5py.Dataset):
            data[name] = np.asarray(node[()])

    with h5py.File(path) as file:
        file.visititems(visit)
    return attributes, data


def assert_alike(one: Path, other: Path, *, rtol: float = 0.0) -> None:
    """The same attributes and data. Other processes may differ in float32's last bits (threads, memory layout)."""
    (attributes, data), (wanted_attributes, wanted) = contents(one), contents(other)
    assert attributes == wanted_attributes
    assert data.keys() == wanted.keys()
    for name, values in data.items():
        if values.dtype.kind == "f":
            atol = rtol * float(np.abs(wanted[name]).max(initial=0.0))
            np.testing.assert_allclose(values, wanted[name], rtol=0, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(values, wanted[name], err_msg=name)


def test_patients_with_tumour_are_forecast_and_the_other_is_skipped(whole: tuple[Path, ForecastResult]) -> None:
    maps, result = whole
    assert [(o.patient_id, o.status, o.reason) for o in result.outcomes] == [
        ("A", Status.OK, ""),
        ("B", Status.OK, ""),
        ("C", Status.SKIPPED, "the last scan has no slice with a tumour mask"),
    ]
    table = maps.with_name("maps.status.tsv").read_text().splitlines()
    assert table[0] == "patient_id\tstatus\treason"
    assert table[3].startswith("C\tskipped\tthe last scan has no slice with a tumour mask")
    with MapArchive.open(maps) as archive:
        assert [patient.patient_id for patient in archive.patients()] == ["A", "B"]
        assert len(archive.slices("A")) == 3
        assert archive.provenance["settings"]["relative_change"] == 0.25
    assert not maps.with_name("maps.h5.parts").exists()


def test_an_interrupted_run_resumes_to_the_same_archive(
    inputs: ForecastInputs, whole: tuple[Path, ForecastResult], tmp_path: Path
) -> None:
    def interrupt(tally: Tally) -> None:
        if tally.done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forecast_cohort(inputs, tmp_path / "maps.h5", SETTINGS, report=interrupt)
    shards = sorted((tmp_path / "maps.h5.parts").glob("shards/*/*.h5"))
    assert 2 <= len(shards) < 6
    before = shards[0].stat().st_mtime_ns
    forecast_cohort(
        inputs,
        tmp_path / "maps.h5",
        SETTINGS,
        report=lambda _: None if shards[0].stat().st_mtime_ns == before else pytest.fail(),
    )
    assert_alike(tmp_path / "maps.h5", whole[0])


def test_a_shard_cut_short_is_made_again(inputs: ForecastInputs, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_slices": 1})

    def interrupt(tally: Tally) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forecast_cohort(inputs, tmp_path / "maps.h5", settings, report=interrupt)
    shard = min((tmp_path / "maps.h5.parts").glob("shards/*/*.h5"))
    shard.write_bytes(shard.read_bytes()[:500])
    assert forecast_cohort(inputs, tmp_path / "maps.h5", settings).outcomes[0].status is Status.OK


def test_a_changed_configuration_is_refused_by_name(inputs: ForecastInputs, tmp_path: Path) -> None:
    def interrupt(tally: Tally) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forecast_cohort(inputs, tmp_path / "maps.h5", SETTINGS, report=interrupt)
    with pytest.raises(UsageError, match=r"settings\.members = 3 .*4"):
        forecast_cohort(inputs, tmp_path / "maps.h5", SETTINGS.model_copy(update={"members": 4}))


def test_a_run_that_finished_nothing_is_begun_anew(
    inputs: ForecastInputs, whole: tuple[Path, ForecastResult], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a run of other settings planned, and the units that failed, do not count against the right ones."""
    out = tmp_path / "maps.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tumorcast.running.forecast_run.forecast_unit", broken)
        other = forecast_cohort(inputs, out, SETTINGS.model_copy(update={"max_slices": 1}))
    assert [outcome.status for outcome in other.outcomes] == [Status.FAILED, Status.FAILED, Status.SKIPPED]
    assert forecast_cohort(inputs, out, SETTINGS).outcomes == whole[1].outcomes
    assert "begun anew (settings.max_slices = 1 there, but None now)" in caplog.text
    assert_alike(out, whole[0])
    assert run_status(out).done == 6


def broken(*_: object) -> None:
    raise InputError("broken")


def test_a_file_that_is_no_archive_is_never_overwritten(inputs: ForecastInputs, tmp_path: Path) -> None:
    (tmp_path / "maps.h5").write_text("years of work")
    with pytest.raises(UsageError, match="not overwritten"):
        forecast_cohort(inputs, tmp_path / "maps.h5", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["maps.h5"]
    assert (tmp_path / "maps.h5").read_text() == "years of work"


def fitted(cohort: Path, patients: str, **changes: object) -> list[GrowthFit]:
    """Quick fits of these patients of a cohort, with other sizes where asked for."""
    with Cohort.open(cohort) as opened:
        series = [opened.size_series(pid, SizeMeasure.AREA_MM2) for pid in patients]
    return [fit_growth(dataclasses.replace(one, **changes), FitSettings(replicates=5)) for one in series]


def test_a_growth_file_that_does_not_fit_is_refused_before_anything_is_written(
    inputs: ForecastInputs, tmp_path: Path
) -> None:
    """And the corrected command runs at the same place."""
    settings = ForecastSettings(horizon_days=30, members=1, max_slices=1, sampler=SETTINGS.sampler)
    write_growth(tmp_path / "others.h5", fitted(inputs.cohort, "AB", patient_id="Z")[:1], {})
    write_growth(tmp_path / "moved.h5", fitted(inputs.cohort, "AB", days=np.array([7.0, 8.0, 9.0])), {})
    write_growth(tmp_path / "unit.h5", fitted(inputs.cohort, "AB", size_name="size"), {})
    (tmp_path / "sizes.csv").write_text("patient_id,day,area_mm2\n")
    write_growth(tmp_path / "right.h5", fitted(inputs.cohort, "AB"), {})
    before = {*tmp_path.iterdir()}
    for name, message in {
        "none.h5": "none.h5: no such file",
        "sizes.csv": "sizes.csv: is no HDF5 file",
        str(inputs.cohort): "expected tumorcast-growth",
        "others.h5": "others.h5: fits no patient .* A: not in the growth file",
        "moved.h5": "the last scan is of day 120",
        "unit.h5": "neither an area",
    }.items():
        with pytest.raises(InputError, match=message):
            forecast_cohort(dataclasses.replace(inputs, growth=tmp_path / name), tmp_path / "maps.h5", settings)
        assert {*tmp_path.iterdir()} == before
    right = dataclasses.replace(inputs, growth=tmp_path / "right.h5")
    assert forecast_cohort(right, tmp_path / "maps.h5", settings).outcomes[0].status is Status.OK


def test_a_finished_archive_is_kept(inputs: ForecastInputs, whole: tuple[Path, ForecastResult]) -> None:
    maps, first = whole
    written = maps.stat().st_mtime_ns
    assert forecast_cohort(inputs, maps, SETTINGS) == first
    assert maps.stat().st_mtime_ns == written
    with pytest.raises(UsageError, match=r"settings\.seed = 0 .*1"):
        forecast_cohort(inputs, maps, SETTINGS.model_copy(update={"seed": 1}))


def test_one_patient_that_fails_does_not_stop_the_others(inputs: ForecastInputs, tmp_path: Path) -> None:
    with Cohort.open(inputs.cohort) as cohort:
        fit = fit_growth(cohort.size_series("B", SizeMeasure.AREA_MM2), FitSettings(replicates=5))
    write_growth(tmp_path / "growth.h5", [fit], {})
    settings = ForecastSettings(horizon_days=30, members=2, sampler=SETTINGS.sampler)
    with_growth = ForecastInputs(inputs.cohort, inputs.engine, tmp_path / "growth.h5")
    outcomes = {o.patient_id: o for o in forecast_cohort(with_growth, tmp_path / "maps.h5", settings).outcomes}
    assert outcomes["A"].status is Status.FAILED
    assert "A: not in the growth file" in outcomes["A"].reason
    assert outcomes["B"].status is Status.OK
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        (patient,) = archive.patients()
        assert patient.target_day == patient.day + 30
        assert patient.curve is not None
        assert patient.curve["days"][-1] == patient.target_day


def test_members_do_not_depend_on_how_many_there_are(inputs: ForecastInputs, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"keep_members": True, "max_slices": 1})
    forecast_cohort(inputs, tmp_path / "three.h5", settings)
    forecast_cohort(inputs, tmp_path / "two.h5", settings.model_copy(update={"members": 2}))
    with MapArchive.open(tmp_path / "three.h5") as three, MapArchive.open(tmp_path / "two.h5") as two:
        more, fewer = three.slices("A")[0].members, two.slices("A")[0].members
    assert more is not None
    assert fewer is not None
    np.testing.assert_allclose(more[:2], fewer, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": SamplerSettings(noise_level=900)}, "noise_level = 900 exceeds the 350 levels"),
        ({"relative_change": None, "horizon_days": 5.0}, "--horizon-days needs --growth"),
    ],
)
def test_what_the_inputs_cannot_give_is_refused(
    change: dict[str, object], message: str, inputs: ForecastInputs, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        forecast_cohort(inputs, tmp_path / "maps.h5", SETTINGS.model_copy(update=change))


def test_an_unwritable_output_is_refused(inputs: ForecastInputs, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        forecast_cohort(inputs, tmp_path / "file" / "maps.h5", SETTINGS)


def test_a_killed_process_loses_only_the_unit_in_hand(
    blob_cohort: Path, random_bundle: Path, inputs: ForecastInputs, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "tumorcast.cli.main", "forecast", str(blob_cohort), "--model", str(random_bundle)),
        *(
            "--relative-change",
            "0.25",
            "--members",
            "3",
            "--max-slices",
            "2",
            "--steps",
            "3",
            "--out",
            str(tmp_path / "maps.h5"),
        ),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    parts = tmp_path / "maps.h5.parts"
    while process.poll() is None and not list(parts.glob("shards/*/*.h5")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "maps.h5").exists()
    settings = ForecastSettings(relative_change=0.25, members=3, max_slices=2, sampler=SamplerSettings(steps=3))
    kept = {shard: shard.stat().st_mtime_ns for shard in parts.glob("shards/*/*.h5")}
    (parts / "shards" / "A" / ".0012.000.h5.1.partial").touch()  # what a kill within a write leaves
    forecast_cohort(
        inputs,
        tmp_path / "maps.h5",
        settings,
        report=lambda _: None if unchanged(kept) else pytest.fail("a shard was redone"),
    )
    forecast_cohort(inputs, tmp_path / "whole.h5", settings)
    assert_alike(tmp_path / "maps.h5", tmp_path / "whole.h5")
    assert not parts.exists()


def unchanged(shards: dict[Path, int]) -> bool:
    return all(not shard.exists() or shard.stat().st_mtime_ns == written for shard, written in shards.items())


def test_targets_and_curve_are_of_the_growth_files_own_forecaster(inputs: ForecastInputs, tmp_path: Path) -> None:
    """A file fitted for the pooled forecaster, with its prior inside: nothing else is asked for."""
    prior, settings = shipped_prior(), FitSettings(replicates=200)
    law = prior.for_size("area_mm2").law_for(settings.law, "area_mm2")
    with Cohort.open(inputs.cohort) as cohort:
        fits = [fit_growth(cohort.size_series(pid, SizeMeasure.AREA_MM2), settings, law) for pid in "AB"]
    growth = tmp_path / "growth.h5"
    write_growth(growth, fits, {}, forecaster="pooled", prior=prior.to_json())
    in_60_days = SETTINGS.model_copy(
        update={"relative_change": None, "horizon_days": 60.0, "members": 16, "max_slices": 1}
    )
    with_growth = ForecastInputs(inputs.cohort, inputs.engine, growth)
    assert forecast_cohort(with_growth, tmp_path / "maps.h5", in_60_days).outcomes[0].status is Status.OK
    pooled = GrowthForecast(fits[0], prior.for_size("area_mm2"), Forecaster.POOLED)
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        (patient, _), (drawn,) = archive.patients(), archive.slices("A")
    assert patient.curve is not None and patient.target_day == 180.0
    days = patient.curve["days"]
    wanted = pooled.quantiles(days, np.array([0.05, 0.5, 0.95]))
    np.testing.assert_allclose([patient.curve[name] for name in ("q05", "q50", "q95")], wanted)
    targets = PatientTargets.drawn(pooled, 120.0, in_60_days).target_ratio
    assert drawn.aimed_mm2.max() < 0.5 * drawn.brain.sum() * 16.0  # none is held back
    np.testing.assert_allclose(drawn.aimed_mm2 / drawn.present_mm2, targets, rtol=1e-5)
    mechanistic = GrowthForecast(fits[0]).quantiles(days[-1:], np.array([0.5]))
    assert abs(np.log(mechanistic[0, 0] / wanted[1, -1])) > 1e-3


def test_a_patient_of_other_dates_than_its_growth_fails_alone(inputs: ForecastInputs, tmp_path: Path) -> None:
    with Cohort.open(inputs.cohort) as cohort:
        fits = [fit_growth(cohort.size_series(pid, SizeMeasure.AREA_MM2), FitSettings(replicates=5)) for pid in "AB"]
    moved = dataclasses.replace(fits[0], series=dataclasses.replace(fits[0].series, days=fits[0].series.days + 7))
    write_growth(tmp_path / "growth.h5", [moved, fits[1]], {})
    settings = ForecastSettings(horizon_days=30, members=1, max_slices=1, sampler=SETTINGS.sampler)
    with_growth = ForecastInputs(inputs.cohort, inputs.engine, tmp_path / "growth.h5")
    first, second, _ = forecast_cohort(with_growth, tmp_path / "maps.h5", settings).outcomes
    assert "the last scan is of day 120, but growth was fitted to days 7, 67, 127" in first.reason
    assert second.status is Status.OK


def test_a_patient_that_cannot_be_planned_fails_alone(
    inputs: ForecastInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(cohort: Cohort, patient_id: str, *limits: Any, **asked: Any) -> PatientPlan:
        if patient_id == "A":
            raise OSError("a damaged chunk")
        return plan_patient(cohort, patient_id, *limits, **asked)

    monkeypatch.setattr("tumorcast.running.forecast_run.plan_patient", planned)
    first, second, _ = forecast_cohort(inputs, tmp_path / "maps.h5", SETTINGS).outcomes
    assert (first.status, first.reason) == (Status.FAILED, "OSError: a damaged chunk")
    assert second.status is Status.OK


def test_the_papers_preset_runs_end_to_end(inputs: ForecastInputs, tmp_path: Path) -> None:
    sampler = SamplerSettings.paper(noise_level=4, scale=10.0)
    settings = ForecastSettings(relative_change=0.25, members=1, max_slices=1, sampler=sampler)
    outcomes = forecast_cohort(inputs, tmp_path / "maps.h5", settings).outcomes
    assert [outcome.status for outcome in outcomes[:2]] == [Status.OK] * 2


def test_a_device_that_is_not_there_is_an_engine_error(
    inputs: ForecastInputs, tiny_model: Path, tmp_path: Path
) -> None:
    nowhere = dataclasses.replace(inputs, engine=EngineChoice((tiny_model,), device="cuda:99"))
    with pytest.raises(EngineError, match="cuda:99"):
        forecast_cohort(nowhere, tmp_path / "maps.h5", SETTINGS)


def test_a_real_scan_is_forecast_and_its_map_goes_home(shared_data: Path, random_bundle: Path, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort.h5"
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "TCGA-DU-7294").symlink_to(shared_data / "tcga_lgg" / "TCGA-DU-7294")
    prepare_cohort(tmp_path / "scans", cohort, PrepareSettings(image_size=64, slices=SliceChoice.LARGEST))
    inputs = ForecastInputs(cohort, EngineChoice((random_bundle,)), None)
    outcomes = forecast_cohort(inputs, tmp_path / "maps.h5", SETTINGS).outcomes
    assert {outcome.status for outcome in outcomes} == {Status.OK}
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        patient = archive.patients()[0]
        (forecast,) = archive.slices(patient.patient_id)
    home = to_source_grid(forecast.tumour[None], np.array([forecast.source_slice]), Grid.from_dict(patient.source_grid))
    assert home.GetSize() == (240, 240, 155)
    total = float(sitk.GetArrayFromImage(home).sum(dtype=np.float64))
    assert total == pytest.approx(16 * float(forecast.tumour.sum()), rel=0.02)  # 4 mm pixels on voxels of 1 mm


@pytest.mark.parametrize(
    ("choice", "visible", "device"),
    [
        (EngineChoice((), Provider.CUDA), "0,1", "cuda:1"),  # local rank 3 of a machine with two
        (EngineChoice((), Provider.TENSORRT), "4,5,6,7", "cuda:3"),
        (EngineChoice((), Provider.CUDA), "2", None),
        (EngineChoice((), Provider.CUDA, "cuda:0"), "0,1", "cuda:0"),
        (EngineChoice((), Provider.CPU), "0,1", None),
    ],
)
def test_ranks_of_a_machine_take_its_gpus_by_turns(
    choice: EngineChoice, visible: str, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("SLURM_JOB_GPUS", raising=False)
    assert own_gpu(choice, Ranks(rank=7, size=8, local_rank=3)).device == device


@pytest.mark.parametrize(("sees", "device"), [(True, "cuda:1"), (False, None)])
def test_torch_takes_its_ranks_gpu_under_slurm_or_says_that_it_takes_the_cpu(
    sees: bool, device: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1")
    monkeypatch.setattr("tumorcast.running.forecast_run.torch_sees_gpu", lambda: sees)
    assert own_gpu(EngineChoice((), Provider.TORCH), Ranks(rank=7, size=8, local_rank=3)).device == device
    assert ("takes the CPU, though the job was granted a GPU" in caplog.text) != sees
    asked = EngineChoice((), Provider.TORCH, "cpu")
    assert own_gpu(asked, Ranks()) == asked
