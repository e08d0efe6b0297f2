"""Old names, until no experiment uses them."""

from typing import Any

import numpy.typing as npt

from tumorcast.evaluation.baselines import *  # noqa: F403

Ratios = npt.NDArray[Any]
