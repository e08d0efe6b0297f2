"""The members that share information between patients: each is learnt from a cohort and forecasts any patient.

Every member is a frozen, serialisable model with a `name`, a classmethod `fitted(histories)` and
`quantiles(history, horizon_days, levels)` of y = log(v + 100 mm³). It needs one scan or more, at any spacing and from
any zero of days; its intervals never narrow as the horizon grows.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tumorcast.growth.population.autoregression import Drift, Persistence, Regression
from tumorcast.growth.population.history import History
from tumorcast.growth.population.mixture import Redraw
from tumorcast.growth.population.student_t_process import Process

__all__ = ["Drift", "History", "Member", "Persistence", "Process", "Redraw", "Regression", "fitted_members"]

Member = Annotated[Persistence | Drift | Regression | Redraw | Process, Field(discriminator="name")]
POOLED = (Drift, Regression, Redraw, Process)


def fitted_members(histories: Sequence[History]) -> tuple[Member, ...]:
    """Those that are pooled, each learnt from the histories. Raises ValueError for fewer than ten changes of size."""
    return tuple(member.fitted(histories) for member in POOLED)
