"""Old names, until no experiment uses them."""

from tumorcast.evaluation.baselines import *  # noqa: F403
