import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tumorcast.growth.bootstrap import Stream, latin_hypercube, log_normal_noise, noisy_sizes, patient_rng


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.5])
def test_noise_has_mean_one(spread: float) -> None:
    factors = log_normal_noise(np.random.default_rng(1), (400_000,), spread)
    error = np.sqrt(np.expm1(spread**2) / factors.size)
    assert abs(factors.mean() - 1.0) < 5 * error
    assert np.std(np.log(factors)) == pytest.approx(spread, rel=0.01)
    assert 0.4 < np.mean(factors > 1.0) < 0.5  # the median lies just below the mean, and nothing is clipped at 1


@given(st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_zero_stays_zero_and_nothing_turns_negative(spread: float, seed: int) -> None:
    sizes = noisy_sizes(np.array([0.0, 3.0]), np.random.default_rng(seed), replicates=5, spread=spread)
    assert sizes.shape == (5, 2)
    assert np.all(sizes[:, 0] == 0) and np.all(sizes[:, 1] > 0)


def test_streams_depend_on_seed_patient_and_purpose_alone() -> None:
    def draw(seed: int, patient: str, stream: Stream) -> float:
        return float(patient_rng(seed, patient, stream).random())

    first = draw(0, "P1", Stream.NOISE)
    assert first == draw(0, "P1", Stream.NOISE)
    assert len({first, draw(1, "P1", Stream.NOISE), draw(0, "P2", Stream.NOISE), draw(0, "P1", Stream.STARTS)}) == 4


def test_latin_hypercube_covers_every_dimension() -> None:
    points = latin_hypercube(np.random.default_rng(0), 3, 8, 6)
    cells = np.sort((points * 8).astype(int), axis=1)
    assert np.array_equal(cells, np.broadcast_to(np.arange(8)[None, :, None], (3, 8, 6)))
    assert not np.array_equal(points[0], points[1])
