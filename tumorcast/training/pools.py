"""What a network of a kind draws its batches from."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tumorcast.errors import InputError, UsageError
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.pairs import PairPool
from tumorcast.training.slices import SlicePool, SliceStore
from tumorcast.training.split import held_out

Pool = SlicePool | PairPool


@dataclass(frozen=True)
class Pools:
    """training: of the patients that are trained on; validation: of those held out, None where they give nothing."""

    training: Pool
    validation: Pool | None

    @classmethod
    def open(cls, kind: NetworkKind, store: SliceStore, settings: TrainSettings) -> Self:
        """Raises InputError if there is nothing to train on."""
        asked = ~_left_out(store, settings)
        apart = held_out(store.arrays.patient_ids, settings.validation_share)
        training = _pool(kind, store, asked & ~apart, settings)
        try:
            return cls(training, _pool(kind, store, asked & apart, settings))
        except InputError:  # few patients are held out, or none, and without tumour there is nothing to look at
            return cls(training, None)


def _left_out(store: SliceStore, settings: TrainSettings) -> npt.NDArray[np.bool_]:
    """(P,) whether the settings leave a patient out. Raises UsageError for a name that the cohort lacks."""
    names = store.arrays.patient_ids
    strangers = sorted(set(settings.leave_out) - set(names))
    if strangers:
        raise UsageError(
            f"--leave-out {strangers[0]}: not in {store.arrays.origin}, which has {', '.join(names[:3])}"
            f"{', …' if len(names) > 3 else ''}"
        )
    return np.isin(names, settings.leave_out)


def _pool(kind: NetworkKind, store: SliceStore, patients: npt.NDArray[np.bool_], settings: TrainSettings) -> Pool:
    if kind is NetworkKind.PROGRESSION:
        return PairPool.of(store, patients)
    return SlicePool.of(store, patients, settings.tumour_share)
