"""Candidates of fit-place, made from the patients that they may learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from tumorcast.arrival.field import ArrivalModel, FrontArrival, NetworkArrival
from tumorcast.arrival.voxel_model import VoxelModel, VoxelSample
from tumorcast.engines.progression import open_progression
from tumorcast.forecasting.place_folder import VOXEL_FILE, Candidate, PlaceModel
from tumorcast.settings import NetworkKind, TrainSettings

LEARNING_RATE, BATCH, MOST_WARMUP_STEPS = 2e-4, 4, 20  # of a network that goes on from another


@dataclass(frozen=True)
class FittedPlace:
    """A candidate, and how place.json names it. voxels: the voxel model, which is not written yet."""

    model: ArrivalModel
    named: PlaceModel

    def write(self, out: Path) -> None:
        """Write what is not there yet."""
        if isinstance(self.model, VoxelModel):
            self.model.write(out / self.named.path)


@dataclass(frozen=True)
class PlaceFitter:
    """Makes candidates. samples: by patient with a pair, what the voxel model learns from; nothing where none is asked.

    start_from: the network that is measured as it is, and that fine-tuning goes on from, `steps` steps; None: from
    fresh weights. device: auto, cpu, cuda.
    """

    cohort: Path
    out: Path
    contrasts: tuple[str, ...]
    samples: Mapping[str, Sequence[VoxelSample]]
    start_from: Path | None
    steps: int
    device: str

    def fitted(self, candidate: Candidate, left_out: Sequence[str], folder: str) -> FittedPlace:
        """The candidate, which has learned from all patients but those left out.

        folder: below `out`, where it stands or is to stand. Raises what training does.
        """
        model: ArrivalModel
        match candidate:
            case Candidate.FRONT:
                model, path = FrontArrival(), ""
            case Candidate.VOXEL:
                known = [own for name, own in self.samples.items() if name not in left_out]
                model, path = VoxelModel.fit(known, self.contrasts), f"{folder}/{VOXEL_FILE}"
            case Candidate.NETWORK:
                assert self.start_from is not None, "else it is no candidate"
                model, path = self._network(self.start_from), str(self.start_from.resolve())
            case Candidate.FINE_TUNED:
                path = f"{folder}/{Candidate.FINE_TUNED}"
                self._train(left_out, self.out / path)
                model = self._network(self.out / path)
            case _:
                assert_never(candidate)
        return FittedPlace(model, PlaceModel(candidate, path, model.sha256))

    def _network(self, path: Path) -> ArrivalModel:
        return NetworkArrival(open_progression([path], None, None if self.device == "auto" else self.device))

    def _train(self, left_out: Sequence[str], run: Path) -> None:
        """A RUN that is finished or begun is gone on with."""
        from tumorcast.training.job import Device  # noqa: PLC0415 - torch, which the other candidates do not need
        from tumorcast.training.train import train  # noqa: PLC0415

        settings = TrainSettings(
            steps=self.steps,
            batch=BATCH,
            learning_rate=LEARNING_RATE,
            warmup_steps=min(MOST_WARMUP_STEPS, self.steps),
            leave_out=tuple(left_out),
            validation_share=0.0,
        )
        train(
            NetworkKind.PROGRESSION,
            self.cohort,
            run,
            settings,
            start_from=self.start_from,
            device=Device(self.device),
            cache=self.out,
        )
