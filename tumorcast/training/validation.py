"""The loss on patients that are never trained on: the averaged weights, on batches and noise that stay the same."""

from dataclasses import dataclass

import torch
from torch import nn

from tumorcast.settings import NetworkKind
from tumorcast.training.job import Job
from tumorcast.training.losses import batch_loss
from tumorcast.training.pools import Pool

EDGES = (0, 50, 150, 350, 1000)  # of the bands of diffusion times
BATCHES, SIZE = 4, 16


@dataclass(frozen=True)
class Validation:
    """Fixed batches of the patients held out."""

    job: Job
    pool: Pool

    def losses(self, module: nn.Module) -> dict[str, float]:
        """The mean loss by band of diffusion times, or under the one name "pairs"."""
        times_of = bands(self.job.kind, self.job.settings.noise_levels)
        return {name: self._loss(module, times) for name, times in times_of.items()}

    def _loss(self, module: nn.Module, times: range) -> float:
        losses = [self._batch_loss(module, times, number) for number in range(BATCHES)]
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def _batch_loss(self, module: nn.Module, times: range, number: int) -> torch.Tensor:
        draws = self.job.fixed_draws(number, SIZE)
        batch = self.pool.draw(draws, augmented=False)
        with self.job.autocast():
            return batch_loss(self.job.kind, module, batch, draws, times)


def bands(kind: NetworkKind, noise_levels: int) -> dict[str, range]:
    """The bands of diffusion times as far as a network learns them.

    >>> bands(NetworkKind.DENOISER, 200)
    {'0-49': range(0, 50), '50-149': range(50, 150), '150-199': range(150, 200)}
    """
    if kind is NetworkKind.PROGRESSION:
        return {"pairs": range(1)}
    starts = [edge for edge in EDGES if edge < noise_levels]
    stops = [*starts[1:], noise_levels]
    return {f"{start}-{stop - 1}": range(start, stop) for start, stop in zip(starts, stops, strict=True)}
