"""Old names, until no experiment uses them."""

from enum import StrEnum


class TargetMode(StrEnum):
    """See followup.TargetSize."""

    TRUTH = "truth"
    ODE = "ode"
