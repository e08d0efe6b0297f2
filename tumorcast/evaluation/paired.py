"""Old names of tumorcast.evaluation.statistics, until nothing uses them."""

from tumorcast.evaluation.statistics import Difference, Estimate, difference, estimate, mean_of, median_of
from tumorcast.evaluation.statistics import not_nan as known

RESAMPLES = 10_000

__all__ = ["RESAMPLES", "Difference", "Estimate", "difference", "estimate", "known", "mean_of", "median_of"]
