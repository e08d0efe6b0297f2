"""The loop on a Gaussian whose score is known, and its plans against the paper's."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from tumorcast.config import SamplerSettings
from tumorcast.diffusion.plan import GuidanceLaw, Normalised, Paper, Step, law_of, plan_steps
from tumorcast.diffusion.sampler import Array, sample
from tumorcast.diffusion.schedule import alpha_bars, strided_times
from tumorcast.errors import UsageError

MEAN, SPREAD = 0.2, 0.1
SHAPE = (1, 4, 4)


@dataclass
class GaussianEngine:
    """Pixels are independent N(MEAN, SPREAD²), so ε(x, t) is known; R is the mean pixel, so its gradient is too."""

    told: list[tuple[str, int, float]] = field(default_factory=list)

    def _eps(self, x: Array, abar: float) -> Array:
        return np.asarray(np.sqrt(1 - abar) * (x - np.sqrt(abar) * MEAN) / (abar * SPREAD**2 + 1 - abar))

    def _move(self, x: Array, eps: Array, step: Step, shift: Array | float = 0.0) -> Array:
        x0 = (x - np.sqrt(1 - step.abar) * eps) / np.sqrt(step.abar) + shift
        return np.asarray(np.sqrt(step.abar_next) * x0 + np.sqrt(1 - step.abar_next) * eps, np.float32)

    def encode_step(self, x: Array, step: Step, *, clamp: bool) -> Array:
        self.told.append(("up", step.t, 0.0))
        return self._move(x, self._eps(x, step.abar), step)

    def guided_step(
        self, x: Array, step: Step, law: GuidanceLaw, target: Array, *, brain: Array, window: Array
    ) -> Array:
        self.told.append(("down", step.t, float(target[0])))
        eps = self._eps(x, step.abar)
        match law:
            case Normalised(gain):
                shift = gain * (target - self.sizes(x, step.t, brain)) / np.sqrt(step.abar)
                return self._move(x, eps, step, shift[:, None, None, None])
            case Paper():
                return self._move(x, eps, step)

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        return x.mean(axis=(1, 2, 3))


def run(engine: GaussianEngine, image: Array, change: float, noise: Array | None = None, **settings: object) -> Array:
    ones = np.ones(SHAPE[1:], np.float32)
    if noise is None:
        noise = np.random.default_rng(1).standard_normal((3, *SHAPE)).astype(np.float32)
    return sample(
        engine,
        image,
        noise,
        present=float(image.mean()),
        change=np.full(len(noise), change, np.float32),
        brain=ones,
        window=ones,
        settings=SamplerSettings(**settings),  # type: ignore[arg-type]
    )


@pytest.fixture
def image() -> Array:
    return (MEAN + SPREAD * np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)


def test_unguided_encoding_and_decoding_converges_to_the_image(image: Array) -> None:
    quiet = np.zeros((1, *SHAPE), np.float32)
    errors = [
        float(np.abs(run(GaussianEngine(), image, 0.0, quiet, steps=steps) - np.sqrt(alpha_bars()[0]) * image).max())
        for steps in (10, 20, 40)
    ]
    assert errors[2] < 0.6 * errors[1] < 0.6 * 0.7 * errors[0]  # of first order in the step
    assert errors[2] < 0.03


def test_encoding_follows_the_probability_flow(image: Array) -> None:
    """For a Gaussian, x_t keeps its quantile: (x_t - √ᾱ·μ)/σ_t is constant along the flow (Song et al. 2021)."""
    engine = GaussianEngine()
    plan = plan_steps(SamplerSettings(steps=199))
    x = start = image[None]
    for step in plan.encode:
        x = engine.encode_step(x, step, clamp=False)

    def quantile(values: Array, abar: float) -> Array:
        return np.asarray((values - np.sqrt(abar) * MEAN) / np.sqrt(abar * SPREAD**2 + 1 - abar))

    abar = alpha_bars()
    np.testing.assert_allclose(quantile(x, abar[199]), quantile(start, abar[0]), rtol=0.02, atol=0.02)


def test_guidance_reaches_the_change_asked_for(image: Array) -> None:
    unguided = run(GaussianEngine(), image, 0.0)
    guided = run(GaussianEngine(), image, 0.15)
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
    ones = np.ones(SHAPE[1:], np.float32)
    noise = np.zeros((1, *SHAPE), np.float32)
    settings = SamplerSettings.paper(noise_level=30)
    sample(
        engine,
        image,
        noise,
        present=0.1,
        change=np.full(1, 0.1, np.float32),
        brain=ones,
        window=ones,
        settings=settings,
    )
    targets = {t: target for direction, t, target in engine.told if direction == "down"}
    assert targets[21] == pytest.approx(0.23)
    assert targets[20] == pytest.approx(0.2)


def test_strided_times_begin_at_zero_and_end_below_the_noise_level() -> None:
    times = strided_times(200, 25)
    assert (times[0], times[-1], len(times)) == (0, 199, 26)
    assert (np.diff(times) > 0).all()


def test_law_follows_the_settings() -> None:
    assert law_of(SamplerSettings(gain=0.3)) == Normalised(0.3)
    assert law_of(SamplerSettings.paper(scale=7.0)) == Paper(7.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 300}, r"steps = 300 exceeds noise_level - 1 = 199"),
        ({"preset": "paper"}, "preset = 'paper' takes every step"),
        ({"gian": 1}, "unknown key 'gian'; known keys: gain"),
        ({"noise_level": 2000}, "noise_level = 2000"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SamplerSettings.of(values, "tumorcast forecast")
