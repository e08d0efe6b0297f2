"""Provenance: what a result was made of, as a nested record, and the refusal of other results by what differs."""

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
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    joined: dict[str, Any] = {}
    for key, value in record.items():
        joined |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return joined


def difference(present: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first key of `wanted` that `present` has otherwise, with both values; None if it has them all alike.

    `present` may hold more, as the commit.

    >>> difference({"a": {"b": 1}, "commit": "f00"}, {"a": {"b": 2}})
    'a.b = 1 there, but 2 now'
    """
    there = flat(present)
    for key, value in flat(wanted).items():
        if there.get(key) != value:
            return f"{key} = {there.get(key)!r} there, but {value!r} now"
    return None


def refuse_other(path: Path, present: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UsageError if what stands at `path` was made of something else, naming the first difference."""
    differs = difference(present, wanted)
    if differs is not None:
        raise UsageError(
            f"{path}: {differs}; start it with the same settings and inputs, or remove it or give another --out"
        )


def is_made_already(path: Path, provenance_of: Callable[[Path], dict[str, Any]], wanted: dict[str, Any]) -> bool:
    """Whether the result at `path` stands and was made of the very same; False where nothing stands there.

    provenance_of: what a file of the kind to be written was made of; raises InputError for any other file.
    Raises UsageError for what must not be overwritten: a result of other settings or inputs, naming the first
    difference, and whatever cannot be read as one.
    """
    if not path.exists():
        return False
    try:
        present = provenance_of(path)
    except InputError as fault:
        raise UsageError(f"{fault}; it is not overwritten: remove it, or give another --out") from None
    refuse_other(path, present, wanted)
    return True
