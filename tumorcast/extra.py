"""Packages that a base installation lacks, and how they are installed."""

from importlib.util import find_spec

from tumorcast.errors import EngineError

# Those of tumorcast[evaluate], as they are imported.
PACKAGES = {"pandas": "pandas", "skimage": "scikit-image", "sklearn": "scikit-learn"}


def check_extra(*names: str) -> None:
    """Raises EngineError where one of PACKAGES is missing: before work begins, not when the first figure is made.

    names: as they are imported; none are all.
    """
    for name in names or PACKAGES:
        if find_spec(name) is None:
            raise EngineError(f"{PACKAGES[name]} is not installed; {how_to_install('evaluate')}")


def how_to_install(extra: str) -> str:
    """The remedy where a package of an extra is missing, in a checkout and where a wheel was installed.

    >>> how_to_install("train")
    "install it: `bin/setup full` in a checkout, else `pip install 'tumorcast[train]'`"
    """
    return f"install it: `bin/setup full` in a checkout, else `pip install 'tumorcast[{extra}]'`"
