"""Boxes and the loop of departures, on a Gaussian whose noise is known; group norms in a box against whole maps."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tumorcast.diffusion.box import BoxGuidance, EncodedPath, SliceBox, box_multiple, sample_in_boxes
from tumorcast.diffusion.host_loops import HostLoops
from tumorcast.diffusion.pullback import InBox, OutsideOfBox, through_unet
from tumorcast.diffusion.regressors import DenseRegressor
from tumorcast.diffusion.sampler import Array, Encodings, MemberTargets, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step, alpha_bars, plan_boxes
from tumorcast.errors import UsageError
from tumorcast.settings import Architecture, Decoding, Guidance, SamplerSettings

MEAN, SPREAD = 0.2, 0.1
SIDE, MULTIPLE = 32, 8
SMALL = Architecture(image_size=16, channel_mult=(1, 2), res_blocks=1, attention_resolutions=(), out_channels=1)


@dataclass
class GaussianEngine(HostLoops):
    """Pixels are independent N(MEAN, SPREAD²); R is the mean pixel, as its gradient is, and norms are nothing."""

    sides: list[int] = field(default_factory=list)
    outsides: list[Array] = field(default_factory=list)

    def _eps(self, x: Array, abar: float) -> Array:
        return np.asarray(np.sqrt(1 - abar) * (x - np.sqrt(abar) * MEAN) / (abar * SPREAD**2 + 1 - abar), np.float32)

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        eps = self._eps(x, step.abar)
        blended = eps + step.blend * (eps - previous_eps)
        x0 = (x - np.sqrt(1 - step.abar) * blended) / np.sqrt(step.abar)
        return np.asarray(np.sqrt(step.abar_next) * x0 + np.sqrt(1 - step.abar_next) * blended, np.float32), eps

    def survey(self, x: Array, step: Step, previous_eps: Array, outside: Array) -> tuple[Array, Array, Array]:
        self.outsides.append(outside)
        return *self.encode_step(x, step, previous_eps), np.zeros((len(x), 0, 2), np.float32)

    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]:
        self.sides.append(departure.shape[-1])
        x = path.x + np.sqrt(step.abar) * departure
        change, size = self._eps(x, step.abar) - path.eps, x.mean(axis=(1, 2, 3))
        shift = (guidance.gain * (guidance.target - size) / np.sqrt(step.abar))[:, None, None, None]
        moved = departure + shift + step.length * (change + step.blend * (change - previous))
        return np.asarray(moved, np.float32), change, size

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        raise AssertionError("whole slices are not decoded")

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        raise AssertionError("sizes are read in boxes")


@pytest.fixture
def images() -> Array:
    """Two slices (2, 1, H, W)."""
    return (MEAN + SPREAD * np.random.default_rng(0).standard_normal((2, 1, SIDE, SIDE))).astype(np.float32)


def run(images: Array, windows: Array, change: Array, engine: GaussianEngine, **settings: object) -> Array:
    """Two encodings a slice, and members of each slice from both in turn."""
    each = len(change) // len(images)
    rng, brain = np.random.default_rng(1), np.ones((2 * len(images), SIDE, SIDE), np.float32)
    encodings = Encodings(
        np.repeat(images, 2, axis=0),
        rng.standard_normal((2 * len(images), 1, SIDE, SIDE)).astype(np.float32),
        np.zeros(2 * len(images), np.float32),
        brain,
        np.repeat(np.arange(len(images)), 2),
    )
    source = np.concatenate([2 * number + np.arange(each) % 2 for number in range(len(images))])
    members = MemberTargets(source, change, np.repeat(windows, each, axis=0))
    sampler = SamplerSettings(**settings)  # type: ignore[arg-type]
    return sample_in_boxes(engine, encodings, members, sampler, multiple=MULTIPLE, batch=3)


def window(row: int, column: int, size: int) -> Array:
    plane = np.zeros((SIDE, SIDE), np.float32)
    plane[row : row + size, column : column + size] = 1
    return plane


def test_without_a_change_the_slice_comes_back(images: Array) -> None:
    made = run(images, np.stack([window(4, 4, 2), window(20, 20, 2)]), np.zeros(4, np.float32), GaussianEngine())
    np.testing.assert_allclose(made, np.repeat(images, 2, axis=0), rtol=0, atol=1e-6)  # batches add up otherwise


def test_a_change_is_reached_in_the_box_of_each_slice_and_nothing_moves_outside(images: Array) -> None:
    windows = np.stack([window(1, 1, 4), window(10, 10, 12)])  # boxes of half the side, and of the whole slice
    engine, change = GaussianEngine(), np.array([0.01, 0.02, 0.01, 0.02], np.float32)
    made = run(images, windows, change, engine, levels=40, gain=1)
    assert {*engine.sides} == {16, SIDE}
    box = SliceBox.round(windows[:1], MULTIPLE)
    moved = made - np.repeat(images, 2, axis=0)
    inside, size = box.cut(moved), box.side**2 / SIDE**2
    np.testing.assert_allclose(inside[:2].mean(axis=(1, 2, 3)), change[:2] / size, rtol=0.1)
    np.testing.assert_allclose(moved[2:].mean(axis=(1, 2, 3)), change[2:], rtol=0.1)
    untouched = moved[:2].copy()
    box.cut(untouched)[...] = 0
    assert not untouched.any()


def test_the_second_order_needs_fewer_levels(images: Array) -> None:
    """Against many levels: the guidance of fewer leaves its own error, so the gain is of one level alone."""
    windows, change = np.repeat(window(1, 1, 4)[None], 2, axis=0), np.full(4, 0.02, np.float32)
    fine = run(images, windows, change, GaussianEngine(), levels=199)
    errors = {
        order: float(np.abs(run(images, windows, change, GaussianEngine(), levels=12, order=order) - fine).mean())
        for order in (1, 2)
    }
    assert errors[2] < errors[1] < 0.02


def test_what_is_surveyed_is_outside_of_the_box(images: Array) -> None:
    engine = GaussianEngine()
    run(images[:1], window(1, 1, 4)[None], np.zeros(2, np.float32), engine)
    (outside,) = {part.tobytes() for part in engine.outsides}
    plane = np.frombuffer(outside, np.float32).reshape(2, SIDE, SIDE)
    assert plane[:, :16, :16].sum() == 0
    assert plane.sum() == 2 * (SIDE**2 - 16**2)


@pytest.mark.parametrize("seed", range(20))
def test_a_box_holds_the_window_and_lies_on_the_grid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row, column, size = rng.integers(0, 100), rng.integers(0, 100), rng.integers(1, 28)
    plane = np.zeros((1, 128, 128), np.float32)
    plane[0, row : row + size, column : column + size] = 0.5
    box = SliceBox.round(plane, 16)
    assert box.cut(plane).sum() == plane.sum()
    assert not any(number % 16 for number in (box.row, box.column, box.side))
    assert 64 <= box.side <= 128
    assert max(box.row, box.column) + box.side <= 128
    assert box.outside(128).sum() == 128**2 - box.side**2


def test_a_window_without_limit_is_the_whole_slice() -> None:
    assert SliceBox.round(np.ones((2, 64, 64), np.float32), 8) == SliceBox(0, 0, 64)
    assert SliceBox.round(np.zeros((2, 64, 64), np.float32), 8) == SliceBox(0, 0, 64)


def test_edges_lie_between_the_pixels_of_every_map() -> None:
    deep = SMALL.model_copy(update={"image_size": 128, "channel_mult": (1, 1, 2, 3, 4)})
    assert box_multiple(deep, SMALL) == 16
    assert box_multiple(deep.model_copy(update={"image_size": 32}), SMALL) is None


def test_the_plan_asks_twice_at_the_top_and_ends_at_the_clean_image() -> None:
    plan = plan_boxes(SamplerSettings(levels=4))
    assert [step.t for step in plan.encode] == [0, 50, 100, 149, 199]
    assert [step.t for step in plan.decode] == [199, 199, 149, 100, 50]
    abar = alpha_bars()[199]
    assert sum(step.length for step in plan.decode) == pytest.approx(-np.sqrt((1 - abar) / abar))
    assert [step.blend > 0 for step in plan.decode] == [False, False, True, True, True]


def test_levels_are_as_many_as_the_steps_that_are_asked_for() -> None:
    assert SamplerSettings(steps=30).levels == 30
    assert SamplerSettings(steps=None).levels is None
    assert SamplerSettings(steps=30, levels=9).levels == 9
    assert SamplerSettings.of(SamplerSettings(steps=30, levels=9).model_dump(), "test").levels == 9
    with pytest.raises(UsageError, match="levels = 20 exceeds noise_level - 1 = 9"):
        SamplerSettings.of({"noise_level": 10, "steps": 5, "levels": 20}, "tumorcast forecast")


def test_the_papers_guidance_has_no_boxes() -> None:
    assert SamplerSettings().in_boxes
    assert not SamplerSettings.paper().in_boxes
    assert not SamplerSettings(guidance=Guidance.PAPER).in_boxes
    assert not SamplerSettings(decoding=Decoding.SLICE).in_boxes


@dataclass
class Network:
    """A small random network with scale and shift, a noisy slice, and what lies outside of a box of it."""

    unet: DenseRegressor
    x: Tensor
    t: Tensor
    box: SliceBox

    def outside(self, x: Tensor | None = None) -> Tensor:
        places = torch.from_numpy(self.box.outside(16)).double()[None]
        norms = OutsideOfBox(places.expand(len(self.x), -1, -1))
        through_unet(self.unet, self.x if x is None else x, self.t, None, norms)
        return torch.cat(norms.kept, dim=1)


@pytest.fixture
def network() -> Network:
    generator = torch.Generator().manual_seed(1)
    unet = DenseRegressor(SMALL.model_copy(update={"scale_shift_norm": True, "resblock_updown": True}))
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    x = torch.randn(2, 4, 16, 16, generator=generator, dtype=torch.float64)
    return Network(unet.double().eval().requires_grad_(False), x, torch.tensor([3, 90]), SliceBox(0, 8, 8))


def test_a_box_that_is_the_whole_slice_is_the_network_itself(network: Network) -> None:
    whole = replace(network, box=SliceBox(0, 0, 16))
    answer, _ = through_unet(network.unet, network.x, network.t, None, InBox(whole.outside(), 1.0))
    torch.testing.assert_close(answer, through_unet(network.unet, network.x, network.t)[0], rtol=0, atol=1e-10)


def test_the_first_norm_in_a_box_is_that_of_the_whole_slice(network: Network) -> None:
    """Of one norm alone, no edge has touched its map: it is the whole one's part to the last bit but rounding."""
    first = network.unet.input_blocks[0]
    x = first(network.x, network.unet.embed(network.t, None))
    weight, bias = torch.ones(x.shape[1], dtype=torch.float64), torch.zeros(x.shape[1], dtype=torch.float64)
    norms = OutsideOfBox(torch.from_numpy(network.box.outside(16)).double()[None].expand(2, -1, -1))
    expected, _ = norms(x, weight, bias, 32)
    found, _ = InBox(norms.kept[0], 0.25)(x[:, :, :8, 8:], weight, bias, 32)
    torch.testing.assert_close(found, expected[:, :, :8, 8:], rtol=0, atol=1e-12)


def test_norms_take_in_what_lies_outside(network: Network) -> None:
    """An offset of the whole slice is taken away by norms of the whole slice, and by none of a box alone."""
    shifted = network.x.clone()
    shifted[:, :, 8:] += 3
    inside = network.x[:, :, :8, 8:]
    near, far = (
        through_unet(network.unet, inside, network.t, None, InBox(network.outside(x), 0.25))[0]
        for x in (network.x, shifted)
    )
    assert float((near - far).abs().max()) > 1e-3


def test_the_gradient_in_a_box_is_autograds(network: Network) -> None:
    x, outside = network.x[:, :, :8, 8:].clone().requires_grad_(True), network.outside()
    answer, pullback = through_unet(network.unet, x, network.t, None, InBox(outside, 0.25))
    g = torch.randn(answer.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (expected,) = torch.autograd.grad(answer, x, g)
    found = pullback(g)
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
