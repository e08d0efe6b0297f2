"""Old names, until no experiment uses them."""

from tumorcast.evaluation.tables import jsonable as plain

__all__ = ["plain"]
