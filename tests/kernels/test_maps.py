"""Statistics of blocks, added up, are those of all members."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tumorcast.kernels.maps import add_moments, add_share, add_votes

Members = npt.NDArray[np.float32]
AnyMembers = TypeVar("AnyMembers", npt.NDArray[np.float32], npt.NDArray[np.bool_])

SMALLEST = float(np.finfo(np.float32).tiny)  # below which float32 has fewer digits

members = st.integers(1, 40).flatmap(
    lambda count: arrays(np.float32, (count, 3), elements=st.floats(-1000, 1000, width=32))
)
cuts = st.sets(st.integers(1, 39), max_size=6)


def blocks_of(values: AnyMembers, where: set[int]) -> list[AnyMembers]:
    return [block for block in np.split(values, sorted(cut for cut in where if cut < len(values))) if len(block)]


@given(members, cuts)
def test_moments_of_blocks_are_those_of_all_members(values: Members, where: set[int]) -> None:
    count, mean, spread = 0, np.zeros(3), np.zeros(3)
    for block in blocks_of(values, where):
        exact = block.astype(np.float64)
        add_moments(
            count,
            mean,
            spread,
            len(block),
            *(told.astype(np.float32) for told in (exact.mean(axis=0), exact.std(axis=0))),
        )
        count += len(block)
    rounding = 4 * np.finfo(np.float32).eps * np.abs(values).max() + SMALLEST
    exact = values.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=0, atol=rounding)
    # A mean that is off by the rounding e lifts the variance by e², and takes no more than e from the deviation.
    np.testing.assert_allclose(np.sqrt(spread / count), exact.std(axis=0), rtol=0, atol=rounding)


@given(members, cuts)
def test_shares_of_blocks_are_those_of_all_members(values: Members, where: set[int]) -> None:
    total = np.zeros(3)
    for block in blocks_of(values, where):
        add_share(total, len(block), block.mean(axis=0, dtype=np.float64).astype(np.float32))
    rounding = np.finfo(np.float32).eps * np.abs(values).max() + SMALLEST
    np.testing.assert_allclose(total / len(values), values.mean(axis=0, dtype=np.float64), rtol=0, atol=rounding)


@given(members, cuts)
def test_votes_are_counted_without_any_rounding(values: Members, where: set[int]) -> None:
    votes, changed = np.zeros(3), values > 0
    for block in blocks_of(changed, where):
        add_votes(votes, len(block), block.mean(axis=0, dtype=np.float32))
    np.testing.assert_array_equal(votes, changed.sum(axis=0))


def test_one_block_is_itself() -> None:
    mean, spread = np.zeros(4), np.zeros(4)
    told = np.array([0.1, -3, 1e20, 0], np.float32), np.array([0.7, 0, 1e18, 3], np.float32)
    add_moments(0, mean, spread, 7, *told)
    np.testing.assert_array_equal(mean.astype(np.float32), told[0])
    np.testing.assert_array_equal(np.sqrt(spread / 7).astype(np.float32), told[1])
