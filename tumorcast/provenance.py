"""What a result was made of, as a nested record, and the refusal of another one by name."""

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tumorcast.errors import InputError, UsageError


@cache
def commit() -> str | None:
    """The git commit of the code that runs, with "+" where the tree has changes; None outside a checkout."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    found: dict[str, Any] = {}
    for key, value in record.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first key of `wanted` that `found` has otherwise, with both values; None if it has them all alike.

    `found` may tell more, as the commit.

    >>> difference({"a": {"b": 1}, "commit": "f00"}, {"a": {"b": 2}})
    'a.b = 1 there, but 2 now'
    """
    there = flat(found)
    for key, value in flat(wanted).items():
        if there.get(key) != value:
            return f"{key} = {there.get(key)!r} there, but {value!r} now"
    return None


def refuse_other(place: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UsageError if what stands at `place` was made of something else, naming the first difference."""
    told = difference(found, wanted)
    if told is not None:
        raise UsageError(
            f"{place}: {told}; start it with the same settings and inputs, or remove it or give another --out"
        )


def is_made_already(place: Path, provenance_of: Callable[[Path], dict[str, Any]], wanted: dict[str, Any]) -> bool:
    """Whether the result at `place` stands and was made of the very same; False where nothing stands there.

    provenance_of: what a file of the kind to be written was made of; raises InputError for any other file.
    Raises UsageError for what must not be overwritten: a result of other settings or inputs, naming the first
    difference, and whatever cannot be read as one.
    """
    if not place.exists():
        return False
    try:
        found = provenance_of(place)
    except InputError as fault:
        raise UsageError(f"{fault}; it is not overwritten: remove it, or give another --out") from None
    refuse_other(place, found, wanted)
    return True
