"""What foretells where tumours go, as a user names it: a network, the front alone."""

from pathlib import Path

from tumorcast.arrival.field import ArrivalModel, FrontArrival, NetworkArrival
from tumorcast.engines.progression import open_progression
from tumorcast.settings import Provider

FRONT = "front"


def open_place(named: Path, provider: Provider | None = None, device: str | None = None) -> ArrivalModel:
    """The model: `front`, or a bundle or RUN folder with a progression network on volumes.

    Raises InputError where there is none of them.
    """
    if str(named) == FRONT and not named.exists():
        return FrontArrival()
    return NetworkArrival(open_progression([named], provider, device))
