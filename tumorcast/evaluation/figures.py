"""Old names, until no experiment uses them."""

from tumorcast.growth.plot import DISCLAIMER

PRESENT_COLOUR, LATER_COLOUR = "cyan", "red"
MARGIN = 2.5  # pixels round the brain

__all__ = ["DISCLAIMER", "LATER_COLOUR", "MARGIN", "PRESENT_COLOUR"]
