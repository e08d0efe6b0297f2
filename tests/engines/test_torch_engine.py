"""The reference engine: its gradient against finite differences, and independence of the batch."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorcast.config import SamplerSettings
from tumorcast.diffusion.plan import Paper, Step, law_of, plan_steps
from tumorcast.diffusion.sampler import Array
from tumorcast.engines.model import find_runs, load_model_set
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import InputError


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TorchEngine:
    return TorchEngine.of(load_model_set([tiny_model]))


def noisy(count: int) -> Array:
    return np.random.default_rng(0).standard_normal((count, 4, 64, 64)).astype(np.float32)


def ones(count: int) -> Array:
    return np.ones((count, 64, 64), np.float32)


def test_gradient_is_that_of_the_size(engine: TorchEngine) -> None:
    exact = TorchEngine(engine.denoiser, copy.deepcopy(engine.regressor).double(), engine.segmenter)
    x, direction = (torch.from_numpy(part[None]).double() for part in noisy(2))
    brain, step = torch.ones(1, 64, 64), 1e-3
    _, gradient = exact._size_and_gradient(x, 30, brain)
    ahead, behind = (exact._size_and_gradient(x + sign * step * direction, 30, brain)[0] for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-5)


def test_a_row_does_not_depend_on_its_batch(engine: TorchEngine) -> None:
    x, step, target = noisy(3), Step(50, 0.8, 0.85), np.array([0.1, 0.2, 0.3], np.float32)
    together = engine.guided_step(x, step, Paper(10.0), target, brain=ones(3), window=ones(3))
    alone = engine.guided_step(x[1:2], step, Paper(10.0), target[1:2], brain=ones(1), window=ones(1))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-4)


def test_encoding_with_clamp_keeps_the_prediction_inside(engine: TorchEngine) -> None:
    x, step = 5 * noisy(1), Step(50, 0.8, 1.0)
    assert np.abs(engine.encode_step(x, step, clamp=True)).max() <= 1.0
    assert np.abs(engine.encode_step(x, step, clamp=False)).max() > 1.0


def test_paper_loop_equals_a_plain_transcription_of_the_authors_code(engine: TorchEngine) -> None:
    """Each step of the preset against the update written out for one image as in the authors' `ddim_sample`."""
    settings = SamplerSettings.paper(noise_level=6, scale=50.0)
    plan, law = plan_steps(settings), law_of(settings)
    x = noisy(1) * 0.5
    for step in plan.decode:
        target = np.array([0.2], np.float32)
        ours = engine.guided_step(x, step, law, target, brain=ones(1), window=ones(1))
        np.testing.assert_allclose(ours, transcription(engine, x, step, 0.2, 50.0), atol=2e-5)
        x = ours


def transcription(engine: TorchEngine, x: Array, step: Step, target: float, scale: float) -> Array:
    xt, t = torch.from_numpy(x).requires_grad_(True), torch.tensor([step.t])
    size = engine.regressor(xt, t, torch.ones(1, 64, 64))
    (a,) = torch.autograd.grad(size.sum(), xt)
    with torch.no_grad():
        eps = engine.denoiser(xt, t, torch.ones(1, dtype=torch.long))
        pred_xstart = (np.sqrt(1 / step.abar) * xt - np.sqrt(1 / step.abar - 1) * eps).clamp(-1, 1)
        eps = (np.sqrt(1 / step.abar) * xt - pred_xstart) / np.sqrt(1 / step.abar - 1)
        eps = eps - np.sqrt(1 - step.abar) * ((target - size) * a * scale)
        pred_xstart = np.sqrt(1 / step.abar) * xt - np.sqrt(1 / step.abar - 1) * eps
        eps = (np.sqrt(1 / step.abar) * xt - pred_xstart) / np.sqrt(1 / step.abar - 1)
        sample = pred_xstart * np.sqrt(step.abar_next) + np.sqrt(1 - step.abar_next) * eps
    return np.asarray(sample.numpy())


def test_runs_are_found_in_and_below_a_folder(tiny_model: Path, tmp_path: Path) -> None:
    assert [run.name for run in find_runs([tiny_model])] == ["denoiser", "dense-regressor", "segmenter"]
    assert find_runs([tiny_model / "denoiser"]) == [tiny_model / "denoiser"]
    with pytest.raises(InputError, match=r"no run\.json"):
        find_runs([tmp_path])


def test_a_model_set_needs_one_of_each(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="0 networks of kind dense-regressor or attention-pool-regressor"):
        load_model_set([tiny_model / "denoiser"])
    with pytest.raises(InputError, match="2 networks of kind denoiser"):
        load_model_set([tiny_model, tiny_model / "denoiser"])


def test_a_dense_regressor_serves_as_segmenter_where_none_is_given(tiny_model: Path) -> None:
    model = load_model_set([tiny_model / "denoiser", tiny_model / "dense-regressor"])
    assert model.segmenter is model.regressor
