"""Counts with their nouns, as everything that is told has them."""


def counted(count: float, noun: str, many: str = "") -> str:
    """A count and its noun. many: the noun of several, where it is not the noun with an s.

    >>> counted(1, "patient"), counted(0, "slice"), counted(2.5, "day"), counted(2, "has", "have")
    ('1 patient', '0 slices', '2.5 days', '2 have')
    """
    return f"{count:.12g} {noun if count == 1 else many or noun + 's'}"
