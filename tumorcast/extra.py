"""The packages of tumorcast[evaluate], which a base installation lacks."""

from importlib.util import find_spec

from tumorcast.errors import EngineError

PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def check_extra(*names: str) -> None:
    """Raises EngineError where one is missing: to be called before work begins, not when the first figure is made.

    names: as they are imported; none are all.
    """
    for name in names or PACKAGES:
        if find_spec(name) is None:
            raise EngineError(
                f"{PACKAGES[name]} is not installed; install tumorcast[evaluate] (in a checkout: bin/setup)"
            )
