"""Hints on columns of treatment under names that are not read, as `RT start` where `rt_start_day` is read.

A treatment that is silently left out changes every forecast, so a warning names a column that looks like one read.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

WORDS = {
    "rt": "rt xrt ebrt imrt crt radiotherapy radiotherapies radiation irradiation radio chemoradiation "
    "chemoradiotherapy radiochemotherapy",
    "chemo": "chemo chemotherapy ctx tmz temozolomide",
    "resection": "resection reresection surgery resurgery operation reoperation op craniotomy debulking",
    "start": "start starts started starting begin begins began beginning first onset initiation",
    "end": "end ends ended ending stop stops stopped last finish finished completion completed",
    "day": "day",
    "date": "date datetime",
    "dose": "dose gy gray cgy",
    "fractions": "fractions fraction fx",
    "": "therapy treatment course days of the total number prescribed",  # they change nothing
}
MEANING = {word: meaning for meaning, words in WORDS.items() for word in words.split()}
RUN_TOGETHER = "|".join(sorted(MEANING, key=len, reverse=True))
SHORTEST_MISSPELT, LIKENESS = 5, 0.8  # of a word: letters, and difflib's ratio
WHEN = {"day", "date"}


def look_alikes(header: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """The columns of a table that are not read and look like one that is, each with that one.

    known: the names that are read. One that the header has is no longer looked for. Case, spaces, separators, synonyms,
    the order of words and slips of spelling do not count; a word that is of no treatment (`steroid`) makes another
    column of it.

    >>> look_alikes(["RT start", "dose", "steroid_dose", "age"], ["rt_start_day", "dose"])
    {'RT start': 'rt_start_day'}
    """
    missing = [name for name in known if name not in header]
    pairs = ((column, _alike(column, missing)) for column in header if column not in known)
    return {column: name for column, name in pairs if name is not None}


def is_date(column: str) -> bool:
    """Whether a column is of calendar dates, by its name.

    >>> is_date("rt_start_date"), is_date("rt_start")
    (True, False)
    """
    return "date" in (_words(column) or ())


def hints(header: Sequence[str], known: Sequence[str], options: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for every look-alike. options: by known column, the option that names another one for it.

    >>> hints(["rt_start"], ["rt_start_day"], {"rt_start_day": "--rt-start-column"})
    ["column 'rt_start' is not read; did you mean rt_start_day? rename it, or name it with --rt-start-column"]
    """
    return [_hint(column, name, (options or {}).get(name)) for column, name in look_alikes(header, known).items()]


def _hint(column: str, name: str, option: str | None) -> str:
    if is_date(column):
        return f"column '{column}' is not read: it looks like dates; give days, from the zero of the scans, as {name}"
    remedy = "rename it" + (f", or name it with {option}" if option else "")
    return f"column '{column}' is not read; did you mean {name}? {remedy}"


def _alike(column: str, names: Sequence[str]) -> str | None:
    meaning = _meaning(column)
    same = (name for name in names if _squashed(name) == _squashed(column) or (meaning and _meaning(name) == meaning))
    return next(same, None)


def _squashed(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _meaning(column: str) -> frozenset[str] | None:
    """What a name means: which treatment, and which of its days, its dose or its fractions. None if no treatment."""
    words = _words(column)
    if words is None:
        return None
    meaning = words - WHEN - {""}
    if meaning & {"dose", "fractions"}:
        return meaning - {"rt"}  # nothing else has them
    dated = bool(words & WHEN)
    if meaning in ({"rt"}, {"chemo"}) and dated:
        return meaning | {"start"}
    if meaning == {"resection"}:
        return meaning if dated else None
    return meaning if len(meaning) > 1 else None


def _words(column: str) -> frozenset[str] | None:
    """The meanings of a name's words, by WORDS; None if one of them is of no treatment."""
    meanings: set[str] = set()
    for word in re.findall(r"[^\W_]+", column.casefold()):
        of_word = _meanings_of(word)
        if not of_word:
            return None
        meanings.update(of_word)
    return frozenset(meanings)


def _meanings_of(word: str) -> list[str]:
    """What a word means, which may be several run together, or misspelt; empty if it is of no treatment."""
    if re.fullmatch(f"(?:{RUN_TOGETHER})+", word):
        return [MEANING[part] for part in re.findall(RUN_TOGETHER, word)]
    if len(word) < SHORTEST_MISSPELT:
        return []
    return [MEANING[near] for near in get_close_matches(word, MEANING, 1, LIKENESS)]
