"""A network tuned on a patient's own slices, and its forecasts before and after."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tumorcast.cli.experiment import experiment as commands
from tumorcast.data.cohort import Cohort
from tumorcast.diffusion.progression import ProgressionNetwork
from tumorcast.engines.model import ModelSet, load_model_set
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import EngineError, InputError
from tumorcast.evaluation.experiments.finetune import (
    AFTER,
    BEFORE,
    EVERY,
    FinetuneExperiment,
    FinetuneSettings,
    TunedModel,
)
from tumorcast.evaluation.followup import TargetSize
from tumorcast.evaluation.targets import TargetSource
from tumorcast.records import Session
from tumorcast.settings import Architecture, ForecastSettings, NetworkKind, SamplerSettings, TrainSettings
from tumorcast.training.dataset import SlicePool, SliceStore
from tumorcast.training.finetune import patient_arrays, tuned
from tumorcast.training.job import Draws, generator_of
from tumorcast.training.losses import batch_loss
from tumorcast.training.networks import build, default_architecture

pytestmark = pytest.mark.slow

TINY = {"channel_mult": (1, 1), "res_blocks": 1, "attention_resolutions": ()}
FEW = TrainSettings(steps=2, batch=1, learning_rate=1e-3, warmup_steps=1, augment=False)
FORECAST = ForecastSettings(
    relative_change=0, members=1, batch=2, sampler=SamplerSettings(steps=2, noise_level=20, encodings=1)
)
TARGETS = TargetSource.shipped(TargetSize.TRUE)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ModelSet:
    """The tiny networks, and one of progression that knows nothing."""
    told = default_architecture(NetworkKind.SLICE_PROGRESSION, image_size=64, contrasts=4).model_dump()
    torch.manual_seed(0)
    progression = build(NetworkKind.SLICE_PROGRESSION, Architecture(**told | TINY)).eval().requires_grad_(False)
    assert isinstance(progression, ProgressionNetwork)
    whole = load_model_set([tiny_model])
    return replace(whole, progression=progression, info=replace(whole.info, progression=NetworkKind.SLICE_PROGRESSION))


@pytest.fixture
def cohort(blob_cohort: Path) -> Iterator[Cohort]:
    with Cohort.open(blob_cohort) as opened:
        yield opened


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in module.parameters()]


def test_a_few_steps_lower_the_loss_on_the_patients_slices(model: ModelSet, blob: Callable[..., Session]) -> None:
    whole, inner = blob("A", "0", 0.0, 5.0), np.s_[..., 16:48, 16:48]
    small = {name: getattr(whole, name)[inner] for name in ("images", "labels", "brain")}
    arrays = patient_arrays(Path("x.h5"), [replace(whole, **small)])
    settings = FEW.model_copy(update={"steps": 12, "batch": 2, "noise_levels": 100})
    before = weights(model.denoiser)
    own = tuned(model.denoiser, NetworkKind.DENOISER, arrays, settings)
    pool = SlicePool.of(SliceStore.open(arrays, torch.device("cpu")), np.ones(1, np.bool_), 1.0)

    def loss(module: torch.nn.Module) -> float:
        draws = Draws(generator_of(torch.device("cpu"), 7), 8)
        with torch.no_grad():
            return float(batch_loss(NetworkKind.DENOISER, module, pool.draw(draws, augmented=False), draws, range(100)))

    assert loss(own) < 0.9 * loss(model.denoiser)
    assert not own.training and not any(value.requires_grad for value in own.parameters())
    assert all(map(torch.equal, before, weights(model.denoiser)))


def test_slices_without_a_mask_teach_nothing(model: ModelSet, blob: Callable[..., Session]) -> None:
    first, second = blob("A", "0", 0.0, 4.0), blob("A", "1", 60.0, 6.0)
    one_lacks = replace(second, area_mm2=np.array([9.0, np.nan, 9.0]))
    arrays = patient_arrays(Path("x.h5"), [first, one_lacks])
    assert arrays.session.tolist() == [0, 0, 0, 1, 1]
    assert arrays.source_slice.tolist() == [10, 11, 12, 10, 12]
    assert arrays.tumour_pixels.tolist() == arrays.tumour.sum(axis=(1, 2)).tolist() == [45, 45, 45, 109, 109]
    bare = patient_arrays(Path("x.h5"), [blob("C", "0", 0.0, 0.0)])
    with pytest.raises(InputError, match=r"x\.h5: no slice"):
        tuned(model.denoiser, NetworkKind.DENOISER, bare, FEW)


def test_a_loss_that_is_no_number_is_told(model: ModelSet, blob: Callable[..., Session]) -> None:
    broken = copy.deepcopy(model.denoiser)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    arrays = patient_arrays(Path("x.h5"), [blob("A", "0", 0.0, 5.0)])
    with pytest.raises(EngineError, match=r"x\.h5: A: step 1 .*nan"):
        tuned(broken, NetworkKind.DENOISER, arrays, FEW)


def test_a_model_of_ones_own_is_tuned_on_all_scans_but_the_last(cohort: Cohort, model: ModelSet) -> None:
    engine, settings = TorchEngine(model), FinetuneSettings(FORECAST, FEW)
    own = TunedModel.tuned_on(cohort.before_last_scan(), "A", engine, settings)
    assert (own.slices, own.progression) == (6, True)
    assert isinstance(own.engine, TorchEngine) and own.engine.progression is not None
    assert not all(map(torch.equal, weights(own.engine.denoiser), weights(model.denoiser)))
    assert not all(map(torch.equal, weights(own.engine.progression), weights(engine.progression)))  # type: ignore[arg-type]
    assert own.engine.regressor is engine.regressor
    plain = TunedModel.tuned_on(cohort.before_last_scan(), "A", TorchEngine(replace(model, progression=None)), settings)
    assert not plain.progression


def test_a_row_has_every_figure_before_and_after(cohort: Cohort, model: ModelSet, tmp_path: Path) -> None:
    asked = FinetuneExperiment(cohort, TorchEngine(model), TARGETS, FinetuneSettings(FORECAST, FEW))
    assert asked.units() == ["A", "B"]
    first = asked.measure("A", tmp_path)
    json.dumps(first)
    assert set(first[BEFORE]) == set(first[AFTER]) == {one.name for one in EVERY}
    assert all(first[BEFORE][name] != first[AFTER][name] for name in ("ssim_now", "ssim_unseen", "ap"))
    second = first | {"progression": False, BEFORE: first[BEFORE] | {"ssim_now": None}}
    found = asked.report({"A": first, "B": second}, tmp_path)
    change = found.figures[AFTER]["ssim_now"]["less_reference"].estimate
    assert change.value == pytest.approx(first[AFTER]["ssim_now"] - first[BEFORE]["ssim_now"])
    assert change.patients == 1
    assert "Of 2 patients, 1 has two earlier scans" in found.tables[0].note
    assert all(len(row) == len(table.head) for table in found.tables for row in table.rows)


def run(*words: object) -> Any:
    return CliRunner().invoke(commands, ["finetune", *(str(word) for word in words)])


def test_the_command_runs_in_torch(blob_cohort: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "few.toml").write_text("[sampler]\nnoise_level = 20\nencodings = 1\n")
    words = [blob_cohort, "--model", tiny_model, "--out", tmp_path / "out", "--config", tmp_path / "few.toml"]
    few = ["--members", 1, "--steps", 2, "--tuning-steps", 1, "--tuning-batch", 1, "--patients", 1]
    result = run(*words, *few, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["units"] == {"ok": 1, "failed": 0}
    assert (tmp_path / "out" / "slices.png").stat().st_size > 5000
    made_of = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert made_of["settings"]["training"]["steps"] == 1
    other = run(*words, *few, "--learning-rate", 1e-2)
    assert "settings.training.learning_rate = 0.0001 there" in str(other.exception)
