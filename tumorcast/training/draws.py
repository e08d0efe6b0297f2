"""Random numbers of one step, from (seed, step) alone: a resumed run sees exactly what an uninterrupted one does."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tumorcast.training.parallel import ALONE, Team


@dataclass(frozen=True)
class Draws:
    """Numbers for a batch of `size` rows: drawn for all of them by every process, which then keeps its own rows."""

    generator: torch.Generator
    size: int
    team: Team = ALONE

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(n, *shape) in [low, high), for this process' n rows."""
        whole = torch.rand((self.size, *shape), generator=self.generator, device=self.generator.device)
        return (whole * (high - low) + low)[self.team.rows]

    def normal(self, *shape: int) -> Tensor:
        """(n, *shape) of the standard normal distribution."""
        whole = torch.randn((self.size, *shape), generator=self.generator, device=self.generator.device)
        return whole[self.team.rows]

    def integers(self, low: int, high: int) -> Tensor:
        """(n,) in low … high - 1."""
        whole = torch.randint(low, high, (self.size,), generator=self.generator, device=self.generator.device)
        return whole[self.team.rows]

    def members(self, pools: list[Tensor], counts: list[int]) -> Tensor:
        """(n,) where the batch holds counts[k] members, drawn with replacement, of pools[k]."""
        device = self.generator.device
        picks = [
            pool[torch.randint(len(pool), (count,), generator=self.generator, device=device)]
            for pool, count in zip(pools, counts, strict=True)
        ]
        return torch.cat(picks)[self.team.rows]


def generator_of(device: torch.device, *key: int) -> torch.Generator:
    """A generator on `device` for a key, as (seed, step). It keeps 32 bits of its seed: the key is mixed into so many.

    Each device has random numbers of its own.
    """
    return torch.Generator(device).manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
