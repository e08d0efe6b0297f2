"""How names of patients and sessions in tables meet those of folders and files: one rule for all tables.

Names meet if they are equal; else if they are once Unicode's forms, blanks round them and BIDS's `sub-` and `ses-` are
out of the way; else if they are without words before a number, capitals, `.0` and leading zeros. The nearest meets; a
name that could be several is none of them.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

PREFIX = re.compile(r"(sub|ses)[-_]", re.IGNORECASE)
WORDS = re.compile(
    r"(patient(id)?|subject|case|time(point)?|visit|session|scan|week|tp|ses|sub)[-_ ]*(?=\d)", re.IGNORECASE
)


def plain(name: str) -> str:
    """The name without Unicode's forms, blanks round it, and BIDS's prefix.

    >>> plain(" sub-01"), plain("ses-2")
    ('01', '2')
    """
    return PREFIX.sub("", unicodedata.normalize("NFC", name).strip(), count=1)


def loose(name: str) -> str:
    """The plain name without words before a number, capitals, `.0`, leading zeros and what parts its parts.

    >>> loose("PatientID_0003"), loose("3.0"), loose("UCSF-PDGM-004_nifti"), loose("Timepoint_1")
    ('3', '3', 'ucsf-pdgm-4', '1')
    """
    word = re.sub(r"(_nifti|\.0+)$", "", plain(name).casefold())
    word = re.sub(r"\d+", lambda digits: str(int(digits[0])), WORDS.sub("", word))
    return re.sub(r"[-_ ]+", "-", word)


FORMS: tuple[Callable[[str], str], ...] = (str, plain, loose)


@dataclass(frozen=True)
class UnmatchedRow:
    """A row of a table that fits no scan. where: file and line; why: what was looked for in vain."""

    where: str
    why: str

    def __str__(self) -> str:
        """The row in a line."""
        return f"{self.where}: {self.why}"


def met(name: str, known: Collection[str]) -> list[str]:
    """The known names that a name meets, by the nearest rule that finds any: one, none, or several.

    >>> met("1", ["sub-01", "sub-02"]), met("01", ["sub-1", "sub-01"]), met("1.0", ["case-1", "case-001"])
    (['sub-01'], ['sub-01'], ['case-1', 'case-001'])
    """
    for form in FORMS:
        matches = [other for other in known if form(other) == form(name)]
        if matches:
            return matches
    return []


def meeting(names: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """By name the known one that it meets, where it is one alone and no name meets it more nearly.

    >>> meeting(["01", "sub-01", "1", "7"], ["sub-01"])
    {'01': 'sub-01', 'sub-01': 'sub-01'}
    """
    unique = list(dict.fromkeys(names))
    pairs = {name: matches[0] for name in unique if len(matches := met(name, known)) == 1}
    nearest = {
        other: min(_distance(name, other) for name in unique if pairs.get(name) == other) for other in pairs.values()
    }
    kept: dict[str, str] = {}
    for name, other in pairs.items():
        rivals = [rival for rival in unique if pairs.get(rival) == other and _distance(rival, other) == len(FORMS) - 1]
        loosely = _distance(name, other) == len(FORMS) - 1
        if not loosely or (nearest[other] == len(FORMS) - 1 and len(rivals) == 1):
            kept[name] = other
    return kept


def _distance(name: str, other: str) -> int:
    return next(rank for rank, form in enumerate(FORMS) if form(name) == form(other))
