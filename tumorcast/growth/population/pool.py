"""The pooled forecast: component models that share information between patients, and the mean of their quantiles.

A component model is learnt from a cohort and forecasts any patient. Each is a frozen, serialisable model with a `name`,
a classmethod `fitted(histories)` and `quantiles(history, horizon_days, levels)` of y = log(v + 100 mm³). It needs one
scan or more, at any spacing and from any zero of days; its intervals never narrow as the horizon grows.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from tumorcast.growth.population.autoregression import Drift, Persistence, Regression
from tumorcast.growth.population.history import History
from tumorcast.growth.population.mixture import MixtureAutoregression
from tumorcast.growth.population.student_t_process import StudentTProcess
from tumorcast.settings import Settings

Array = npt.NDArray[np.float64]
ComponentModel = Annotated[
    Persistence | Drift | Regression | MixtureAutoregression | StudentTProcess, Field(discriminator="name")
]

POOLED = (Drift, Regression, MixtureAutoregression, StudentTProcess)
MECHANISTIC = "mechanistic"


def fit_components(histories: Sequence[History]) -> tuple[ComponentModel, ...]:
    """The models that are pooled, each learnt from the histories.

    Raises ValueError for fewer than ten changes of size.
    """
    return tuple(model.fitted(histories) for model in POOLED)


class Contribution(NamedTuple):
    """What one component forecasts and how much it counts: (Q,) quantiles of y; weights of a forecast sum to 1."""

    name: str
    weight: float
    quantiles: Array


class Pool(Settings):
    """The weighted mean of the components' quantiles (Vincent 1912; Lichtendahl et al. 2013).

    Q(p) = Σ_k w_k Q_k(p),   Σ_k w_k = 1

    The components' weights are equal. Weights learnt from the other 39 patients of mu_glioma_post, or from a patient's
    own earlier forecasts, were measured and forecast worse than equal ones, as is common (Stock & Watson 2004).
    Averaged quantiles keep the components' sharpness where they agree, while a mean of their densities would add the
    distance between them.

    members, weights: the components that were learnt. mechanistic_weight: of the growth law, which is fitted to each
    patient; where it is absent the others share its weight in proportion to theirs.
    """

    members: tuple[ComponentModel, ...] = Field(min_length=1)
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
        """Components learnt from the histories, with equal weights; the growth law counts as one of them unless its
        weight is given. Raises ValueError for fewer than ten changes of size."""
        members = fit_components(histories)
        outside = 1 / (len(members) + 1) if mechanistic_weight is None else mechanistic_weight
        return cls(members=members, weights=((1 - outside) / len(members),) * len(members), mechanistic_weight=outside)

    def weighing(self, mechanistic_weight: float) -> Self:
        """The same components, with another weight of the growth law."""
        share = (1 - mechanistic_weight) / (1 - self.mechanistic_weight)
        weights = tuple(weight * share for weight in self.weights)
        return self.model_copy(update={"weights": weights, "mechanistic_weight": mechanistic_weight})

    def contributions(
        self, history: History, horizon_days: float, levels: Array, mechanistic: Array | None = None
    ) -> tuple[Contribution, ...]:
        """What each component forecasts, horizon_days after the last scan, at levels: (Q,) in (0, 1).

        mechanistic: (Q,) quantiles of y that the growth law gives at the same levels; None where there are none.
        """
        total = 1.0 if mechanistic is not None else 1 - self.mechanistic_weight
        contributions = [
            Contribution(model.name, weight / total, model.quantiles(history, horizon_days, levels))
            for model, weight in zip(self.members, self.weights, strict=True)
        ]
        if mechanistic is not None:
            contributions.append(Contribution(MECHANISTIC, self.mechanistic_weight, mechanistic))
        return tuple(contributions)

    def quantiles(
        self, history: History, horizon_days: float, levels: Array, mechanistic: Array | None = None
    ) -> Array:
        """(Q,) pooled quantiles of y, horizon_days after the last scan, at levels: (Q,) in (0, 1)."""
        return pooled(self.contributions(history, horizon_days, levels, mechanistic))


def pooled(contributions: Sequence[Contribution]) -> Array:
    """(Q,) weighted mean of the quantiles.

    >>> pooled([Contribution("a", 0.75, np.array([1.0, 2.0])), Contribution("b", 0.25, np.array([5.0, 6.0]))])
    array([2., 3.])
    """
    return np.asarray(sum(part.weight * part.quantiles for part in contributions), dtype=np.float64)
