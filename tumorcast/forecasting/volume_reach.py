"""How far a growth map in three dimensions comes to the sizes that its members aim at, and what keeps it from them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import VolumeForecast
from tumorcast.counted import counted

LARGEST_BRAIN_SHARE = 0.5  # of its volume that a tumour may aim at
LEAST_WANTED = 0.05  # of the present size: of less, a share of it reached means nothing
LEAST_REACH, MOST_REACH = 0.5, 1.5  # beyond these it is told
SAME = 1e-9  # relative


def largest_ratio(tumour: npt.NDArray[np.bool_], brain: npt.NDArray[np.bool_]) -> float:
    """The largest volume that a tumour may aim at over its present one, by its voxels and the brain's."""
    return max(LARGEST_BRAIN_SHARE * int(brain.sum()) / max(int(tumour.sum()), 1), 1.0)


def share_reached(present: float, aimed: float, gained: float) -> float:
    """The size gained over the size wanted; NaN where too little was wanted."""
    wanted = aimed - present
    if abs(wanted) < LEAST_WANTED * present or wanted == 0:
        return float("nan")
    return gained / wanted


def when_in_words(days: float | None) -> str:
    """A horizon in words; None is a change that was asked for.

    >>> when_in_words(90.0), when_in_words(1.0)
    ('in 90 days', 'in 1 day')
    """
    return "for the change asked for" if days is None else f"in {counted(days, 'day')}"


@dataclass(frozen=True)
class VolumeReach:
    """Whether a map gets where its members want at one horizon.

    members: how many; held: of them, those that aim at the most that is allowed, half of the brain, or the present
    size where that `fills` more already; beyond: those that
    aim at more than all that the map can reach, `reachable_mm3`. gained: the volume that the map expects to come over
    the one wanted, means over members; NaN where too little was wanted.
    """

    members: int
    held: int
    fills: bool
    beyond: int
    reachable_mm3: float
    gained: float

    @classmethod
    def of(cls, forecast: VolumeForecast, horizon: int) -> Self:
        """At a horizon, by its number."""
        tumour, ratios = forecast.labels > 0, forecast.target_ratio[horizon]
        cell_mm3 = forecast.voxel_mm**3
        reachable_mm3 = int(np.isfinite(forecast.log_volume).sum()) * cell_mm3
        most, aimed_mm3 = largest_ratio(tumour, forecast.brain), forecast.aimed_mm3[horizon]
        gained_mm3 = float(forecast.expected_mm3[horizon]) - int(tumour.sum()) * cell_mm3
        return cls(
            members=len(ratios),
            held=int((ratios >= most * (1 - SAME)).sum()),
            fills=most <= 1.0,
            beyond=int((aimed_mm3 > reachable_mm3).sum()),
            reachable_mm3=reachable_mm3,
            gained=share_reached(float(forecast.present_mm3), float(aimed_mm3.mean()), gained_mm3),
        )

    def notes(self) -> list[str]:
        """What a reader of the map should know, in sentences without a capital; none where it gets there."""
        notes = []
        if self.held:
            notes.append(self._held_in_words())
        if self.beyond:
            most = f"{self.reachable_mm3 / 1000:.0f} mL"
            notes.append(f"{self._some(self.beyond)} beyond the {most} that the map can reach")
        if self.gained < LEAST_REACH or self.gained > MOST_REACH:
            notes.append(f"the map gains {100 * self.gained:.0f} % of the change of volume aimed at")
        return notes

    def _held_in_words(self) -> str:
        if not self.fills:
            return f"{self._some(self.held)} at the most that is allowed, half of the brain"
        some = "every member is" if self.held == self.members else f"{self.held} of {self.members} members are"
        return f"{some} held at the present size, for the tumour fills half of the brain or more"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        gained = None if np.isnan(self.gained) else self.gained
        return {"members_held": self.held, "members_beyond_reach": self.beyond, "reach": gained}

    def _some(self, count: int) -> str:
        return "every member aims" if count == self.members else f"{count} of {self.members} members aim"


def notes_of(forecast: VolumeForecast) -> list[str]:
    """What a reader of a patient's growth map should know of its sizes, a sentence a horizon that needs one."""
    notes = []
    for horizon, days in enumerate(forecast.horizon_days):
        told = VolumeReach.of(forecast, horizon).notes()
        if told:
            notes.append(f"{when_in_words(None if np.isnan(days) else float(days))}: {', '.join(told)}")
    return notes
