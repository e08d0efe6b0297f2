"""What foretells where tumours go, as a user names it: the front, a network, or what was fitted to a cohort."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tumorcast.arrival.field import ArrivalModel, FrontArrival, NetworkArrival
from tumorcast.arrival.voxel_model import VoxelModel
from tumorcast.engines.progression import open_progression
from tumorcast.errors import InputError, UsageError
from tumorcast.forecasting.place_folder import PLACE_FILE, PlaceFolder
from tumorcast.settings import Provider

FRONT = "front"
SLICES = "slices"  # none of them: slices are forecast one by one


@dataclass(frozen=True)
class ArrivalModels:
    """What foretells where each patient's tumour goes.

    model: of whoever has none in left_out, by patient one that has not learned from them. fitted_to: the patients that
    `model` has learned from, as far as is known.
    """

    model: ArrivalModel
    left_out: Mapping[str, ArrivalModel] = field(default_factory=dict)
    fitted_to: frozenset[str] = frozenset()

    def of(self, patient_id: str) -> ArrivalModel:
        """The patient's."""
        return self.left_out.get(patient_id, self.model)

    def record(self) -> dict[str, str]:
        """For provenance. The sum is over all models."""
        if not self.left_out:
            return {"name": self.model.name, "sha256": self.model.sha256}
        sums = [self.model.sha256, *(f"{name} {self.left_out[name].sha256}" for name in sorted(self.left_out))]
        digest = hashlib.sha256("\n".join(sums).encode()).hexdigest()
        return {"name": f"{self.model.name}, patients left out", "sha256": digest}

    def note(self, patient_ids: Iterable[str], *, asked_left_out: bool) -> str | None:
        """What a user must know who forecasts these patients; None where there is nothing."""
        names = list(patient_ids)
        known = [name for name in names if name in self.fitted_to and name not in self.left_out]
        if known:
            return (
                f"{self.model.name}: has learned from {_some(known)}, who are forecast here; --left-out forecasts each "
                "patient by a model that has not"
            )
        others = [name for name in names if name not in self.left_out]
        if asked_left_out and self.left_out and others:
            return f"{_some(others)}: left out of no model, and so forecast by the final one, which has not seen them"
        return None


def open_place(
    named: Path, provider: Provider | None = None, device: str | None = None, *, left_out: bool = False
) -> ArrivalModels:
    """`front`; a folder of `tumorcast fit-place`, or a voxel model of one; a bundle or RUN with a progression network.

    left_out: with the models that have not learned from a patient, which such a folder alone has. Raises InputError
    where there is none of them, UsageError for left_out of something else.
    """
    if named.is_dir() and (named / PLACE_FILE).exists():
        return _of_folder(named, provider, device, left_out=left_out)
    if left_out:
        raise UsageError(f"--left-out: {named} is no folder of `tumorcast fit-place`; give one, or leave it out")
    if str(named) == FRONT and not named.exists():
        return ArrivalModels(FrontArrival())
    if named.suffix == ".json":
        return ArrivalModels(VoxelModel.load(named))
    try:
        return ArrivalModels(NetworkArrival(open_progression([named], provider, device)))
    except InputError as fault:
        if named.exists():
            raise
        raise InputError(f"--place {fault}; or a folder of `tumorcast fit-place`, or front") from None


def _of_folder(folder: Path, provider: Provider | None, device: str | None, *, left_out: bool) -> ArrivalModels:
    found = PlaceFolder.read(folder)
    models: dict[str, ArrivalModel] = {}
    if left_out:
        for fold in found.folds:
            models |= dict.fromkeys(fold.patients, fold.model.open(folder, provider, device))
    return ArrivalModels(found.final.open(folder, provider, device), models, frozenset(found.fitted_to))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
