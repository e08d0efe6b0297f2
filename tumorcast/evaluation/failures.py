"""Old names, until no experiment uses them."""

from tumorcast.evaluation.failure_flags import *  # noqa: F403
