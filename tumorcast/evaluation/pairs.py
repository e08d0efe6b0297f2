"""Old names of tumorcast.evaluation.followup, until nothing uses them."""

from tumorcast.evaluation.followup import FollowUp as Pair
from tumorcast.evaluation.followup import grown_followups as pairs_of

__all__ = ["Pair", "pairs_of"]
