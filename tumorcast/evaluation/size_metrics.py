"""Old names, until no experiment uses them."""

from tumorcast.evaluation.metrics import *  # noqa: F403
