import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tumorcast.growth.bootstrap import (
    Bootstrap,
    Noise,
    Replicates,
    Resampling,
    Stream,
    draw,
    latin_hypercube,
    noise_factors,
    patient_rng,
)

SIZES = np.array([100.0, 130.0, 90.0, 40.0, 60.0, 150.0])
FITTED = np.array([104.0, 120.0, 80.0, 50.0, 70.0, 140.0])
MANY = 40_000
MEAN_ONE = [Noise.LOGNORMAL, Noise.ADDITIVE]
COMPARES_SIZES = [Noise.ADDITIVE, Noise.PAPER]


def replicates(
    kind: Bootstrap, noise: Noise, spread: float = 0.1, sizes: np.ndarray = SIZES, fitted: np.ndarray = FITTED
) -> Replicates:
    return draw(np.random.default_rng(1), MANY, sizes, fitted, Resampling(kind, noise, spread))


def assert_mean(values: np.ndarray, expected: np.ndarray) -> None:
    """The mean over replicates is the expected one, but for the luck of the draw."""
    error = values.std(axis=0) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(axis=0) - expected) < 5 * error)


# Noise.


@pytest.mark.parametrize("noise", MEAN_ONE)
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.5])
def test_noise_has_mean_one(noise: Noise, spread: float) -> None:
    factors = noise_factors(np.random.default_rng(1), (400_000, 1), Resampling(Bootstrap.MEASUREMENT, noise, spread))
    assert_mean(factors, np.ones(1))
    assert np.std(np.log(factors)) == pytest.approx(spread, rel=0.01)
    assert 0.4 < np.mean(factors > 1.0) < 0.5  # the median lies just below the mean, and nothing is clipped at 1


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.5])
def test_the_papers_noise_only_shrinks(spread: float) -> None:
    factors = noise_factors(
        np.random.default_rng(1), (400_000,), Resampling(Bootstrap.MEASUREMENT, Noise.PAPER, spread)
    )
    assert np.all((factors >= 0.01) & (factors <= 1.0))
    assert np.mean(factors == 1.0) == pytest.approx(0.5, abs=0.01)  # whatever would have grown
    assert np.quantile(factors, 0.5 * 0.3173) == pytest.approx(max(1.0 - spread, 0.01), abs=0.01)  # one σ below


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("kind", [Bootstrap.MEASUREMENT, Bootstrap.PARAMETRIC])
def test_without_spread_nothing_is_perturbed(kind: Bootstrap, noise: Noise) -> None:
    drawn = replicates(kind, noise, spread=0.0)
    assert np.all(drawn.sizes == (SIZES if kind is Bootstrap.MEASUREMENT else FITTED))


# What each bootstrap replicates.


@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("kind", Bootstrap)
def test_replicates_have_a_size_and_a_weight_for_every_scan(kind: Bootstrap, noise: Noise) -> None:
    drawn = replicates(kind, noise)
    assert drawn.sizes.shape == drawn.weights.shape == (MANY, SIZES.size)
    assert np.all(drawn.sizes >= 0) and np.all(np.isfinite(drawn.sizes))
    assert np.all(drawn.weights.sum(axis=1) == SIZES.size)
    assert np.all(drawn.weights == 1.0) == (kind is not Bootstrap.CASES)
    assert len(np.unique(drawn.sizes, axis=0)) > 1 or kind is Bootstrap.CASES


@pytest.mark.parametrize("noise", MEAN_ONE)
@pytest.mark.parametrize(
    ("kind", "centre"), [(Bootstrap.MEASUREMENT, SIZES), (Bootstrap.PARAMETRIC, FITTED)], ids=["measurement", "curve"]
)
def test_noise_keeps_the_mean(kind: Bootstrap, centre: np.ndarray, noise: Noise) -> None:
    drawn = replicates(kind, noise).sizes
    assert_mean(drawn, centre)
    np.testing.assert_allclose(np.std(np.log(drawn), axis=0), 0.1, rtol=0.02)


@pytest.mark.parametrize(
    ("kind", "centre"), [(Bootstrap.MEASUREMENT, SIZES), (Bootstrap.PARAMETRIC, FITTED)], ids=["measurement", "curve"]
)
def test_the_papers_replicates_are_never_larger(kind: Bootstrap, centre: np.ndarray) -> None:
    drawn = replicates(kind, Noise.PAPER).sizes
    assert np.all(drawn <= centre) and np.all(drawn.mean(axis=0) < centre)


def test_scans_err_independently() -> None:
    drawn = np.log(replicates(Bootstrap.MEASUREMENT, Noise.LOGNORMAL).sizes)
    apart = np.corrcoef(drawn, rowvar=False) - np.eye(SIZES.size)
    assert np.max(np.abs(apart)) < 5 / np.sqrt(MANY)


def test_residuals_of_logarithms_keep_the_fitted_curve_on_average() -> None:
    drawn = replicates(Bootstrap.RESIDUAL, Noise.LOGNORMAL).sizes
    residuals = np.log(SIZES / FITTED)
    assert_mean(np.log(drawn), np.log(FITTED))
    np.testing.assert_allclose(np.std(np.log(drawn), axis=0), residuals.std(), rtol=0.02)
    found = np.unique(np.round(np.log(drawn / FITTED), 12))
    np.testing.assert_allclose(found, np.unique(np.round(residuals - residuals.mean(), 12)), atol=1e-11)


@pytest.mark.parametrize("noise", COMPARES_SIZES)
def test_residuals_of_sizes_keep_the_fitted_curve_on_average(noise: Noise) -> None:
    drawn = replicates(Bootstrap.RESIDUAL, noise).sizes
    residuals = SIZES - FITTED
    assert_mean(drawn, FITTED)
    found = np.unique(np.round(drawn - FITTED, 9))
    np.testing.assert_allclose(found, np.unique(np.round(residuals - residuals.mean(), 9)), atol=1e-8)


@pytest.mark.parametrize("noise", Noise)
def test_a_residual_never_makes_a_size_negative(noise: Noise) -> None:
    sizes, fitted = np.array([100.0, 1.0, 50.0, 0.0]), np.array([60.0, 2.0, 90.0, 5.0])
    drawn = replicates(Bootstrap.RESIDUAL, noise, sizes=sizes, fitted=fitted).sizes
    assert np.all(drawn >= 0) and np.all(np.isfinite(drawn))
    assert np.any(drawn == 0) == (noise in COMPARES_SIZES)


def test_cases_are_drawn_with_replacement() -> None:
    drawn = replicates(Bootstrap.CASES, Noise.LOGNORMAL)
    assert np.all(drawn.sizes == SIZES)
    assert np.all(drawn.weights == np.round(drawn.weights)) and np.all(drawn.weights >= 0)
    assert_mean(drawn.weights, np.ones(SIZES.size))
    left_out = (1 - 1 / SIZES.size) ** SIZES.size
    assert np.mean(drawn.weights == 0) == pytest.approx(left_out, abs=0.01)


@given(st.sampled_from(Noise), st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_zero_stays_zero_and_nothing_turns_negative(noise: Noise, spread: float, seed: int) -> None:
    sizes, resampling = np.array([0.0, 3.0]), Resampling(Bootstrap.MEASUREMENT, noise, spread)
    drawn = draw(np.random.default_rng(seed), 5, sizes, np.array([1.0, 2.0]), resampling).sizes
    assert np.all(drawn[:, 0] == 0) and np.all(drawn[:, 1] > 0)


@pytest.mark.parametrize("kind", Bootstrap)
def test_the_first_replicates_do_not_depend_on_how_many_are_drawn(kind: Bootstrap) -> None:
    resampling = Resampling(kind, Noise.LOGNORMAL, 0.1)
    few, many = (draw(patient_rng(0, "P1", Stream.NOISE), count, SIZES, FITTED, resampling) for count in (3, 50))
    assert few.sizes.tolist() == many.sizes[:3].tolist()
    assert few.weights.tolist() == many.weights[:3].tolist()


# Streams and starts.


def test_streams_depend_on_seed_patient_purpose_and_block_alone() -> None:
    def first(seed: int = 0, patient: str = "P1", stream: Stream = Stream.NOISE, block: int = 0) -> float:
        return float(patient_rng(seed, patient, stream, block).random())

    others = [first(seed=1), first(patient="P2"), first(block=1), *(first(stream=stream) for stream in Stream)]
    assert first() == first()
    assert len({first(), *others}) == 3 + len(Stream)


def test_a_negative_seed_is_misuse() -> None:
    with pytest.raises(ValueError, match="negative"):
        patient_rng(-1, "P1", Stream.NOISE)


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 7))
def test_latin_hypercube_covers_every_dimension(seed: int, points: int, dimensions: int) -> None:
    starts = latin_hypercube(np.random.default_rng(seed), points, dimensions)
    assert np.all((starts >= 0) & (starts < 1))
    cells = np.sort(np.floor(starts * points), axis=0)
    assert np.array_equal(cells, np.tile(np.arange(points)[:, None], (1, dimensions)))


def test_the_dimensions_of_a_latin_hypercube_are_shuffled_apart() -> None:
    starts = latin_hypercube(np.random.default_rng(0), 2000, 4)
    assert np.max(np.abs(np.corrcoef(starts, rowvar=False) - np.eye(4))) < 0.1
