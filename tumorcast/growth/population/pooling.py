"""The pooled forecast: the weighted mean of the members' quantiles (Vincent 1912; Lichtendahl et al. 2013).

The weights are equal. Weights learnt from the other 39 patients of mu_glioma_post, or from a patient's own earlier
forecasts, were measured and forecast worse than equal ones, as is common (Stock & Watson 2004). Averaged quantiles keep
the members' sharpness where they agree, while a mean of their densities would add the distance between them.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from tumorcast.growth.population.history import History
from tumorcast.growth.population.members import Member, fitted_members
from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]

MECHANISTIC = "mechanistic"


class Contribution(NamedTuple):
    """What one member said and how much it counted: (Q,) quantiles of y; weights of a forecast sum to 1."""

    name: str
    weight: float
    quantiles: Array


class Pool(Settings):
    """Members and their weights. mechanistic_weight: of the member that is fitted elsewhere; where it is absent the
    others share its weight in proportion to theirs."""

    members: tuple[Member, ...] = Field(min_length=1)
    weights: tuple[float, ...]
    mechanistic_weight: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members")
        if min(self.weights) < 0 or abs(sum(self.weights) + self.mechanistic_weight - 1) > 1e-9:
            raise ValueError("weights and mechanistic_weight must not be negative and must sum to 1")
        return self

    @classmethod
    def fitted(cls, histories: Sequence[History], *, mechanistic_weight: float | None = None) -> Self:
        """Members learnt from the histories, with equal weights; the mechanistic one counts as one of them unless said
        otherwise. Raises ValueError for fewer than ten changes of size."""
        members = fitted_members(histories)
        outside = 1 / (len(members) + 1) if mechanistic_weight is None else mechanistic_weight
        return cls(members=members, weights=((1 - outside) / len(members),) * len(members), mechanistic_weight=outside)

    def weighing(self, mechanistic_weight: float) -> Self:
        """The same members, with another weight of the mechanistic one."""
        share = (1 - mechanistic_weight) / (1 - self.mechanistic_weight)
        weights = tuple(weight * share for weight in self.weights)
        return self.model_copy(update={"weights": weights, "mechanistic_weight": mechanistic_weight})

    def contributions(
        self, history: History, horizon_days: float, levels: Array, mechanistic: Array | None = None
    ) -> tuple[Contribution, ...]:
        """What each member says at levels: (Q,) in (0, 1).

        mechanistic: (Q,) quantiles of y that the outside member gives at the same levels; None where there are none.
        """
        total = 1.0 if mechanistic is not None else 1 - self.mechanistic_weight
        said = [
            Contribution(member.name, weight / total, member.quantiles(history, horizon_days, levels))
            for member, weight in zip(self.members, self.weights, strict=True)
        ]
        if mechanistic is not None:
            said.append(Contribution(MECHANISTIC, self.mechanistic_weight, mechanistic))
        return tuple(said)

    def quantiles(
        self, history: History, horizon_days: float, levels: Array, mechanistic: Array | None = None
    ) -> Array:
        """(Q,) pooled quantiles of y, horizon_days after the last scan, at levels: (Q,) in (0, 1)."""
        return pooled(self.contributions(history, horizon_days, levels, mechanistic))


def pooled(contributions: Sequence[Contribution]) -> Array:
    """(Q,) weighted mean of the quantiles."""
    return np.asarray(sum(one.weight * one.quantiles for one in contributions), dtype=np.float64)
