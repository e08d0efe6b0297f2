"""The reference engine: its gradient against finite differences, and independence of the batch."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tumorcast.diffusion.sampler import Array, Encodings, MemberTargets, StepGuidance, sample
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.model import load_model_set
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import InputError
from tumorcast.settings import NetworkKind, SamplerSettings
from tumorcast.training.checkpoint import save_tensors
from tumorcast.training.networks import build
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, read_run_info

pytestmark = pytest.mark.slow

STEP = Step(50, 0.8, 0.85)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TorchEngine:
    return TorchEngine(load_model_set([tiny_model]))


def noisy(count: int) -> Array:
    return np.random.default_rng(0).standard_normal((count, 4, 64, 64)).astype(np.float32)


def ones(count: int, side: int = 64) -> Array:
    return np.ones((count, side, side), np.float32)


def to(target: Array, scale: float, side: int = 64) -> StepGuidance:
    """Under the paper's law, in the whole brain, which is everywhere."""
    return StepGuidance(target, ones(len(target), side), ones(len(target), side), scale=scale)


def test_gradient_is_that_of_the_size(engine: TorchEngine) -> None:
    exact = copy.deepcopy(engine)
    exact.regressor.double()
    x, direction = (torch.from_numpy(part[None]).double() for part in noisy(2))
    brain, step = torch.ones(1, 64, 64), 1e-3
    _, gradient = exact._size_and_gradient(x, 30, brain)
    ahead, behind = (exact._size_and_gradient(x + sign * step * direction, 30, brain)[0] for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-5)


def test_a_row_does_not_depend_on_its_batch(engine: TorchEngine) -> None:
    x, step, target = noisy(3), STEP, np.array([0.1, 0.2, 0.3], np.float32)
    together, _ = engine.guided_step(x, step, np.zeros_like(x), to(target, 10.0))
    alone, _ = engine.guided_step(x[1:2], step, np.zeros_like(x[1:2]), to(target[1:2], 10.0))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-4)


def test_encoding_with_clipping_keeps_the_prediction_inside(engine: TorchEngine) -> None:
    x, clipped, free = 5 * noisy(1), Step(50, 0.8, 1.0, clip=True), Step(50, 0.8, 1.0, clip=False)
    assert np.abs(engine.encode_step(x, clipped, np.zeros_like(x))[0]).max() <= 1.0
    assert np.abs(engine.encode_step(x, free, np.zeros_like(x))[0]).max() > 1.0


def test_paper_preset_is_the_authors_loop(engine: TorchEngine) -> None:
    """`sample` against the loop written out for one image as in the authors' `ddim_sample_loop_progressive`."""
    shaken = shake(engine)
    image, noise = 0.3 * noisy(2)[:1], noisy(2)[1:]
    settings, level, scale, present, change = SamplerSettings.paper(noise_level=24, scale=1e7), 24, 1e7, 0.1, 0.05
    encodings = Encodings(image, noise, np.full(1, present, np.float32), ones(1), np.zeros(1, int))
    targets = MemberTargets(np.zeros(1, int), np.full(1, change, np.float32), ones(1))
    ours = sample(shaken, encodings, targets, settings, batch=1)
    theirs = transcription(shaken, image, noise, level=level, scale=scale, target=present + change)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    still = transcription(shaken, image, noise, level=level, scale=0.0, target=present + change)
    assert np.abs(theirs - still).max() > 0.01  # or the guidance would not have been compared


def shake(engine: TorchEngine) -> TorchEngine:
    """The engine with random last layers: fresh networks end in zeros and would hide what is asked of them."""
    torch.manual_seed(0)
    shaken = copy.deepcopy(engine)
    for network in (shaken.denoiser, shaken.regressor):
        for parameter in network.out.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return shaken


def transcription(engine: TorchEngine, image: Array, noise: Array, *, level: int, scale: float, target: float) -> Array:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    abar_prev, abar_next = torch.cat([torch.ones(1), abar[:-1]]), torch.cat([abar[1:], torch.zeros(1)])

    def x_start(x: Tensor, eps: Tensor, t: int) -> Tensor:
        return ((1 / abar[t]) ** 0.5 * x - (1 / abar[t] - 1) ** 0.5 * eps).float()

    def eps_of(x: Tensor, start: Tensor, t: int) -> Tensor:
        return (((1 / abar[t]) ** 0.5 * x - start) / (1 / abar[t] - 1) ** 0.5).float()

    def denoised(x: Tensor, t: int) -> Tensor:
        with torch.no_grad():
            return x_start(x, engine.denoiser(x, torch.tensor([t]), torch.ones(1, dtype=torch.long)), t).clamp(-1, 1)

    def guide(x: Tensor, t: int) -> Tensor:
        x = x.detach().requires_grad_(True)
        size = engine.regressor(x, torch.tensor([t]), torch.ones(1, 64, 64))
        (slope,) = torch.autograd.grad(size.sum(), x)
        wanted = target + 0.15 * target if t > 20 else target
        return (wanted - size.detach()) * slope * scale

    x = (abar[0] ** 0.5 * torch.from_numpy(image) + (1 - abar[0]) ** 0.5 * torch.from_numpy(noise)).float()
    indices = list(range(level - 1))[::-1]
    for i in indices:
        t = abs(level - 1 - i)
        start = denoised(x, t)
        x = (abar_next[t] ** 0.5 * start + (1 - abar_next[t]) ** 0.5 * eps_of(x, start, t)).float()
    for t in indices:
        eps = eps_of(x, denoised(x, t), t) - (1 - abar[t]).float() ** 0.5 * guide(x, t)
        start = x_start(x, eps, t)
        x = (abar_prev[t] ** 0.5 * start + (1 - abar_prev[t]) ** 0.5 * eps_of(x, start, t)).float()
    return x.numpy()


def test_steps_leave_denormal_numbers_to_others(engine: TorchEngine) -> None:
    engine.guided_step(noisy(1), STEP, noisy(1), to(np.ones(1, np.float32), 1.0))
    assert np.float64(1e-300) * np.float64(1e-15) > 0


def test_networks_run_without_tf32(pool_runs: Path) -> None:
    engine, seen, before = TorchEngine(load_model_set([pool_runs])), set(), torch.backends.cudnn.allow_tf32
    networks = {
        "denoiser": engine.denoiser,
        "regressor": engine.regressor,
        "segmenter": engine.segmenter,
        "progression": engine.progression,
    }
    for name, network in networks.items():
        assert network is not None
        network.out.register_forward_pre_hook(lambda *_, n=name: seen.add((n, torch.backends.cudnn.allow_tf32)))
    x, plane = np.zeros((1, 2, 32, 32), np.float32), ones(1, 32)
    engine.guided_step(x, STEP, x, to(np.ones(1, np.float32), 1.0, 32))
    engine.segment(x)
    engine.predict_progression(x, plane, np.zeros(1, np.float32))
    assert seen == {(name, False) for name in networks}
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_model_set_needs_one_of_each(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="denoiser: no dense-regressor"):
        load_model_set([tiny_model / "denoiser"])
    with pytest.raises(InputError, match="2 networks of kind denoiser"):
        load_model_set([tiny_model, tiny_model / "denoiser"])


def edited_progression(runs: Path, folder: Path, **changes: object) -> Path:
    """The progression network of `runs` with other words in its run.json."""
    run = Path(shutil.copytree(runs / "slice-progression", folder / "slice-progression"))
    told = json.loads((run / RUN_FILE).read_text())
    for key, value in changes.items():
        (told if key in told else told["architecture"])[key] = value
    (run / RUN_FILE).write_text(json.dumps(told))
    return run


def test_a_progression_network_of_other_images_is_refused(dense_runs: Path, pool_runs: Path, tmp_path: Path) -> None:
    other = edited_progression(pool_runs, tmp_path / "size", image_size=64)
    with pytest.raises(InputError, match=r"image_size = 64, .*/denoiser has 32"):
        load_model_set([dense_runs, other])
    other = edited_progression(pool_runs, tmp_path / "contrasts", contrasts=["t1n", "t2w"])
    with pytest.raises(InputError, match=r"contrasts = \('t1n', 't2w'\), .*/denoiser"):
        load_model_set([dense_runs, other])
    other = edited_progression(pool_runs, tmp_path / "planes", in_channels=2)
    network = build(NetworkKind.SLICE_PROGRESSION, read_run_info(other).architecture)
    save_tensors(other / WEIGHTS_FILE, network.state_dict(), {})
    with pytest.raises(InputError, match=r"run\.json: in_channels = 2, .* 4"):
        load_model_set([dense_runs, other])


def test_one_progression_network_at_most(dense_runs: Path, pool_runs: Path) -> None:
    run = pool_runs / "slice-progression"
    with_one = load_model_set([dense_runs, run])
    assert with_one.info.progression is NetworkKind.SLICE_PROGRESSION
    assert with_one.info.size_reader is NetworkKind.SEGMENTER
    assert with_one.entries.keys() == with_one.networks.keys()
    assert with_one.info.sha256 != load_model_set([dense_runs]).info.sha256
    with pytest.raises(InputError, match="2 networks of kind progression"):
        load_model_set([dense_runs, run, run])


def test_a_dense_regressor_serves_as_segmenter_where_none_is_given(tiny_model: Path) -> None:
    model = load_model_set([tiny_model / "denoiser", tiny_model / "dense-regressor"])
    assert model.segmenter is model.regressor
