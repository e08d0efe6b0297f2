"""Old names of tumorcast.evaluation.targets, until nothing uses them."""

from tumorcast.evaluation.targets import targets_from_past

__all__ = ["targets_from_past"]
