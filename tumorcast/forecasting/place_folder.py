"""The folder that `tumorcast fit-place` writes: what foretold best where tumours of a cohort go, and how that was seen.

place.json names the models: the final one, which has learned from all patients, and those that have learned from all
but some; and it holds the comparison. Models of our own stand beside it: voxel.json, RUN folders. This module alone
knows the layout.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, assert_never

from tumorcast.arrival.field import ArrivalModel, FrontArrival, NetworkArrival
from tumorcast.arrival.voxel_model import REMEDY, VoxelModel
from tumorcast.durable import write_text
from tumorcast.engines.progression import open_progression
from tumorcast.errors import InputError
from tumorcast.settings import Provider

FORMAT, FORMAT_VERSION = "tumorcast-place", 1
PLACE_FILE, VOXEL_FILE = "place.json", "voxel.json"


class Candidate(StrEnum):
    """What can foretell where tumours go, the simplest first.

    FRONT: has learned nothing. VOXEL: the voxel model, fitted to the cohort. NETWORK: a progression network on volumes
    as it is. FINE_TUNED: one that was trained on the cohort.
    """

    FRONT = "front"
    VOXEL = "voxel"
    NETWORK = "network"
    FINE_TUNED = "fine-tuned"

    @property
    def learns(self) -> bool:
        """Whether it learns from the cohort."""
        return self in (Candidate.VOXEL, Candidate.FINE_TUNED)


@dataclass(frozen=True)
class PlaceModel:
    """A model as place.json names it. path: from the folder, or absolute; empty for the front."""

    candidate: Candidate
    path: str
    sha256: str

    def open(self, folder: Path, provider: Provider | None, device: str | None) -> ArrivalModel:
        """The model. Raises InputError if it is missing, or not what was named."""
        model: ArrivalModel
        match self.candidate:
            case Candidate.FRONT:
                model = FrontArrival()
            case Candidate.VOXEL:
                model = VoxelModel.load(folder / self.path)
            case Candidate.NETWORK | Candidate.FINE_TUNED:
                model = NetworkArrival(open_progression([folder / self.path], provider, device))
            case _:
                assert_never(self.candidate)
        if model.sha256 != self.sha256:
            raise InputError(
                f"{folder / self.path}: is not the model that {PLACE_FILE} names; copy the folder whole, or {REMEDY}"
            )
        return model


@dataclass(frozen=True)
class Fold:
    """Patients who were left out, and the model that has learned from the others."""

    patients: tuple[str, ...]
    model: PlaceModel


@dataclass(frozen=True)
class PlaceFolder:
    """What fit-place found. fitted_to: the patients that the final model has learned from; folds: none where it has
    learned from none. comparison: the figures, and what they were made of, as JSON has them."""

    final: PlaceModel
    fitted_to: tuple[str, ...]
    folds: tuple[Fold, ...]
    comparison: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises InputError if place.json is missing or not of this version."""
        path = folder / PLACE_FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if (record["format"], record["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError("another format or version")
            folds = tuple(Fold(tuple(fold["patients"]), _model(fold["model"])) for fold in record["folds"])
            return cls(_model(record["final"]), tuple(record["fitted_to"]), folds, record["comparison"])
        except OSError as fault:
            raise InputError(f"{path}: cannot be read ({fault.strerror}); {REMEDY}") from None
        except (ValueError, KeyError, TypeError) as fault:
            raise InputError(f"{path}: not of this version ({fault!r}); {REMEDY}") from None

    def write(self, folder: Path) -> None:
        """Write place.json, whole or not at all."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        write_text(folder / PLACE_FILE, json.dumps(head | asdict(self), indent=1) + "\n")


def _model(record: dict[str, str]) -> PlaceModel:
    return PlaceModel(Candidate(record["candidate"]), record["path"], record["sha256"])
