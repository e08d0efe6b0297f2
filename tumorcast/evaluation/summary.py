"""Old names, until no experiment uses them."""

from tumorcast.evaluation.comparison import TargetMode
from tumorcast.evaluation.statistics import patient_mean


def mode_told(mode: TargetMode) -> str:
    """The target mode in words."""
    return "true size" if mode is TargetMode.TRUTH else "forecast size"


__all__ = ["mode_told", "patient_mean"]
