"""The packages that figures are made with, which a base installation lacks."""

from importlib.util import find_spec

from tumorcast.errors import EngineError

PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def check_extra() -> None:
    """Raises EngineError where one is missing: to be called before work begins, not when the first figure is made."""
    for name, package in PACKAGES.items():
        if find_spec(name) is None:
            raise EngineError(f"{package} is not installed; install tumorcast[evaluate] (in a checkout: bin/setup)")
