"""The loop on a Gaussian whose score is known, and its plans against the paper's."""

import dataclasses
import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

from tumorcast.diffusion.host_loops import HostLoops
from tumorcast.diffusion.sampler import Array, Encodings, MemberTargets, StepGuidance, guidance_strength, sample
from tumorcast.diffusion.schedule import Step, alpha_bars, plan_steps, second_order, strided_times
from tumorcast.errors import UsageError
from tumorcast.settings import SamplerSettings

MEAN, SPREAD = 0.2, 0.1
SHAPE = (1, 4, 4)


@dataclass
class GaussianEngine(HostLoops):
    """Pixels are independent N(MEAN, SPREAD²), so ε(x, t) is known; R is the mean pixel, so its gradient is too."""

    calls: list[tuple[str, int, float]] = field(default_factory=list)

    def _eps(self, x: Array, abar: float) -> Array:
        return np.asarray(np.sqrt(1 - abar) * (x - np.sqrt(abar) * MEAN) / (abar * SPREAD**2 + 1 - abar))

    def _move(self, x: Array, step: Step, previous_eps: Array, shift: Array | float = 0.0) -> tuple[Array, Array]:
        eps = self._eps(x, step.abar)
        blended = eps + step.blend * (eps - previous_eps)
        x0 = (x - np.sqrt(1 - step.abar) * blended) / np.sqrt(step.abar) + shift
        moved = np.sqrt(step.abar_next) * x0 + np.sqrt(1 - step.abar_next) * blended
        return np.asarray(moved, np.float32), np.asarray(eps, np.float32)

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        self.calls.append(("up", step.t, 0.0))
        return self._move(x, step, previous_eps)

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        self.calls.append(("down", step.t, float(guidance.target[0])))
        missing = guidance.target - self.sizes(x, step.t, guidance.brain)
        shift = guidance.gain * missing / np.sqrt(step.abar)
        return self._move(x, step, previous_eps, shift[:, None, None, None])

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        return x.mean(axis=(1, 2, 3))


def encodings_of(images: Array, noise: Array) -> Encodings:
    ones = np.ones((len(images), *SHAPE[1:]), np.float32)
    return Encodings(images, noise, images.mean(axis=(1, 2, 3)), brain=ones, slice_number=np.arange(len(images)))


def targets_of(source: Array, change: Array) -> MemberTargets:
    return MemberTargets(source, change, np.ones((len(source), *SHAPE[1:]), np.float32))


def run(engine: GaussianEngine, image: Array, change: float, noise: Array | None = None, **settings: object) -> Array:
    if noise is None:
        noise = np.random.default_rng(1).standard_normal((3, *SHAPE)).astype(np.float32)
    return sample(
        engine,
        encodings_of(np.repeat(image[None], len(noise), axis=0), noise),
        targets_of(np.arange(len(noise)), np.full(len(noise), change, np.float32)),
        SamplerSettings(**settings),  # type: ignore[arg-type]
        batch=2,
    )


@pytest.fixture
def image() -> Array:
    return (MEAN + SPREAD * np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)


@pytest.mark.parametrize("order", [1, 2])
def test_unguided_encoding_and_decoding_converges_to_the_image(image: Array, order: int) -> None:
    quiet = np.zeros((1, *SHAPE), np.float32)
    start = np.sqrt(alpha_bars()[0]) * image
    errors = [
        float(np.abs(run(GaussianEngine(), image, 0.0, quiet, steps=steps, order=order) - start).max())
        for steps in (10, 20, 40)
    ]
    assert errors[2] < 0.6 * errors[1] < 0.6 * 0.7 * errors[0]  # of first order at least
    assert errors[2] < 0.03


def test_the_second_order_is_of_second_order_and_ahead(image: Array) -> None:
    """Up to the top, against the flow's known solution: half the step, a quarter of the error."""
    abar = alpha_bars()
    start = image[None].astype(np.float64)
    spread = np.sqrt(abar * SPREAD**2 + 1 - abar)
    exact = np.sqrt(abar[199]) * MEAN + (start - np.sqrt(abar[0]) * MEAN) * spread[199] / spread[0]

    def error(order: int, steps: int) -> float:
        x, eps = start, np.zeros_like(start)
        for step in plan_steps(SamplerSettings(steps=steps, order=order)).encode:
            x, eps = GaussianEngine().encode_step(x, step, eps)
        return float(np.abs(x - exact).max())

    assert error(2, 24) < 0.35 * error(2, 12)
    assert error(2, 12) < 0.5 * error(1, 12)


def test_members_of_one_encoding_are_those_of_their_own(image: Array) -> None:
    """Sharing an encoding changes nothing but the work: four rows from two encodings, and each from its own."""
    noise = np.random.default_rng(1).standard_normal((2, *SHAPE)).astype(np.float32)
    images, source = np.stack([image, image[:, ::-1]]), np.array([0, 1, 0, 1])
    change = np.array([0.0, 0.1, 0.2, 0.3], np.float32)
    settings = SamplerSettings(steps=5)
    engine = GaussianEngine()
    shared = sample(engine, encodings_of(images, noise), targets_of(source, change), settings, batch=3)
    asked = sum(direction == "up" for direction, _, _ in engine.calls)
    own = sample(
        GaussianEngine(),
        encodings_of(images[source], noise[source]),
        targets_of(np.arange(4), change),
        settings,
        batch=4,
    )
    np.testing.assert_allclose(shared, own, atol=1e-6)
    assert asked == 5


def test_the_second_rule_uses_uneven_steps_exactly() -> None:
    """A noise that is linear in the flow's time is integrated without error, whatever the steps."""
    times = [0.1, 0.15, 0.3, 0.35]
    steps = [Step(0, 1 / (1 + a * a), 1 / (1 + b * b)) for a, b in itertools.pairwise(times)]
    found, last = 0.0, None
    for step, at in zip(second_order(steps), times[:-1], strict=True):
        eps = 2 * at
        if last is None:  # the first step has no step before: given exactly here
            found += times[1] ** 2 - times[0] ** 2
        else:
            found += step.length * (eps + step.blend * (eps - last))
        last = eps
    assert found == pytest.approx(times[-1] ** 2 - times[0] ** 2)


def test_encoding_follows_the_probability_flow(image: Array) -> None:
    """For a Gaussian, x_t keeps its quantile: (x_t - √ᾱ·μ)/σ_t is constant along the flow (Song et al. 2021)."""
    engine = GaussianEngine()
    x = start = image[None]
    for step in plan_steps(SamplerSettings(steps=199, order=1)).encode:
        x, _ = engine.encode_step(x, step, np.zeros_like(x))

    def quantile(values: Array, abar: float) -> Array:
        return np.asarray((values - np.sqrt(abar) * MEAN) / np.sqrt(abar * SPREAD**2 + 1 - abar))

    abar = alpha_bars()
    np.testing.assert_allclose(quantile(x, abar[199]), quantile(start, abar[0]), rtol=0.02, atol=0.02)


def test_guidance_reaches_the_change_asked_for(image: Array) -> None:
    unguided = run(GaussianEngine(), image, 0.0, steps=40)
    guided = run(GaussianEngine(), image, 0.15, steps=40)
    np.testing.assert_allclose((guided - unguided).mean(axis=(1, 2, 3)), 0.15, rtol=0.1)


def test_paper_plan_is_the_authors_loop() -> None:
    """Up at t = 1 … NL - 1, down at t = NL - 2 … 0: NL - 1 evaluations each way, the last one to ᾱ = 1."""
    plan = plan_steps(SamplerSettings.paper(noise_level=200))
    assert [step.t for step in plan.encode] == list(range(1, 200))
    assert [step.t for step in plan.decode] == list(range(198, -1, -1))
    abar = alpha_bars()
    assert plan.encode[0] == Step(1, abar[1], abar[2])
    assert plan.decode[0] == Step(198, abar[198], abar[197])
    assert plan.decode[-1] == Step(0, abar[0], 1.0)


def test_paper_target_is_raised_by_15_percent_above_t_20(image: Array) -> None:
    engine = GaussianEngine()
    encodings = dataclasses.replace(
        encodings_of(image[None], np.zeros((1, *SHAPE), np.float32)), present=np.full(1, 0.1)
    )
    targets = targets_of(np.zeros(1, int), np.full(1, 0.1, np.float32))
    sample(engine, encodings, targets, SamplerSettings.paper(noise_level=30), batch=1)
    asked = {t: target for direction, t, target in engine.calls if direction == "down"}
    assert asked[21] == pytest.approx(0.23)
    assert asked[20] == pytest.approx(0.2)


def test_strided_times_begin_at_zero_and_end_below_the_noise_level() -> None:
    times = strided_times(200, 25)
    assert (times[0], times[-1], len(times)) == (0, 199, 26)
    assert (np.diff(times) > 0).all()


def test_the_law_that_is_not_asked_for_has_no_strength() -> None:
    assert guidance_strength(SamplerSettings(gain=0.3)) == (0.3, 0.0)
    assert guidance_strength(SamplerSettings.paper(scale=7.0)) == (0.0, 7.0)


def test_the_first_step_has_none_before_to_blend_in_and_only_the_default_way_up_is_not_clipped() -> None:
    plan, paper = plan_steps(SamplerSettings()), plan_steps(SamplerSettings.paper())
    assert plan.encode[0].blend == plan.decode[0].blend == 0.0 < plan.encode[1].blend
    assert {step.clip for step in plan.encode} == {False}
    assert all(step.clip for step in (*plan.decode, *paper.encode, *paper.decode))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 300}, r"steps = 300 exceeds noise_level - 1 = 199"),
        ({"preset": "paper"}, "preset = 'paper' takes every step"),
        ({"gian": 1}, "unknown key 'gian'; known keys: decoding, encodings, gain"),
        ({"noise_level": 2000}, "noise_level = 2000"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SamplerSettings.of(values, "tumorcast forecast")
