"""One training: what is trained, how, into which folder, on which device and by how many processes."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.draws import Draws, generator_of
from tumorcast.training.parallel import ALONE, Team


@dataclass(frozen=True)
class Job:
    """What every part of a training needs to know. `team`: of this process; what only one does is done by its lead."""

    kind: NetworkKind
    settings: TrainSettings
    out: Path
    device: torch.device
    team: Team = ALONE

    def draws(self, step: int) -> Draws:
        """The random numbers of a step, counted from 0."""
        return Draws(generator_of(self.device, self.settings.seed, step), self.settings.batch, self.team)

    def fixed_draws(self, number: int, size: int) -> Draws:
        """Random numbers that are no step's and stay the same throughout the run, for `size` rows of this process."""
        return Draws(generator_of(self.device, self.settings.seed, 0, number), size)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that the network is run in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16)
