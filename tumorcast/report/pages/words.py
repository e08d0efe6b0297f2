"""What the pages say: numbers with their units, flags in plain words, and texts without the paths they may hold."""

import hashlib
import math
import re

from tumorcast.counted import counted
from tumorcast.evaluation.failure_flags import (
    BLOB_FAR_MM,
    BLOB_LEAST_MM2,
    RIM_FAR_MM,
    RIM_LEAST_MM2,
    RIM_MM,
)
from tumorcast.forecasting.volume_reach import LEAST_REACH, MOST_REACH

DISCLAIMER = "For research, not a medical device."
UNKNOWN = "–"
THIN_SPACE = "\u202f"
# Folders may hold blanks, so a path is taken to begin with the message, at its root, or with the first word that has a
# slash, and to end with the last slash before the next mark.
OPENING = re.compile(r"""^[^:\n]*[/\\](?=[^/\\:\n]+:)""")
ABSOLUTE = re.compile(r"""(?<![^\s'"(=\[])(?:[A-Za-z]:)?[/\\][^:;,'"()\n]*[/\\]""")
FOLDERS = re.compile(r"""[^\s:;,'"()/\\]*[/\\](?:[^:;,'"()\n]*[/\\])?(?=[^/\\:;,'"()\n]*\.[A-Za-z])""")


FLAG_TEXTS = {  # by the name of a Failure: in a word, and what it means
    "rim_change": (
        "rim change",
        f"Most members changed at least {RIM_LEAST_MM2:g} mm² in the outer {RIM_MM:g} mm of the brain, more than "
        f"{RIM_FAR_MM:g} mm from the tumour.",
    ),
    "separate_blob": (
        "separate patch",
        f"A new patch of tumour of at least {BLOB_LEAST_MM2:g} mm², all of it more than {BLOB_FAR_MM:g} mm from the "
        "present one.",
    ),
    "wrong_way": ("wrong way", "The tumour shrank where growth was aimed at, or grew where it was to shrink."),
    "too_little": ("too little", f"Less than {100 * LEAST_REACH:g} % of the change aimed at was reached."),
    "too_much": ("too much", f"More than {100 * MOST_REACH:g} % of the change aimed at was reached."),
    "map_apart": ("map apart", "The growth map and the generated images put new tumour in different places."),
    "volume_apart": (
        "volume apart",
        "The growth map in three dimensions does not come to the volume wanted, or that was held at half of the brain: "
        "the patient's page tells how far.",
    ),
}


def without_paths(text: str) -> str:
    """The text with every path cut down to its last part: folders can bear the names of people and machines.

    >>> without_paths("/home/ada/My scans/A 1.nii.gz: 3 of 4 contrasts found")
    'A 1.nii.gz: 3 of 4 contrasts found'
    >>> without_paths("Jane Doe/A.nii.gz: truncated"), without_paths("not in ../cohorts/ward 7/truth.h5; 3 mm/day")
    ('A.nii.gz: truncated', 'not in truth.h5; 3 mm/day')
    """
    return FOLDERS.sub("", ABSOLUTE.sub("", OPENING.sub("", text)))


def area(value: float) -> str:
    """An area in whole mm², thousands set apart.

    >>> area(1234.5).replace(THIN_SPACE, " ")
    '1 234 mm²'
    """
    return f"{grouped(value)}{THIN_SPACE}mm²"


def grouped(value: float) -> str:
    """A whole number, thousands set apart."""
    return UNKNOWN if math.isnan(value) else f"{value:,.0f}".replace(",", THIN_SPACE)


def change(ratio: float) -> str:
    """A change in per cent, given as the later size over the present one.

    >>> change(1.25), change(0.875)
    ('+25 %', '−12 %')
    """
    percent = round(100 * (ratio - 1))
    return f"{signed(percent)} %" if percent else "0 %"


def change_range(low: float, high: float) -> str:
    """Two changes as a range.

    >>> change_range(0.78, 2.5)
    '−22 to +150 %'
    """
    return f"{change(low).removesuffix(' %')} to {change(high)}"


def signed(value: float) -> str:
    """A number with its sign, as print has it.

    >>> signed(-40.0), signed(3)
    ('−40', '+3')
    """
    return f"{value:+g}".replace("-", "−")


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits after the point, or a dash where there is none."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.{digits}f}"


def days(count: float) -> str:
    """A span of time.

    >>> days(90.0), days(1)
    ('90 days', '1 day')
    """
    return counted(count, "day")


def page_name(patient_id: str) -> str:
    """The file name of a patient's page: safe in any file system and in a link, and another one for every patient.

    >>> page_name("SIM-00001"), page_name("A/B c")
    ('SIM-00001.html', 'A_B_c-95163840.html')
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", patient_id)
    if safe == patient_id and not safe.startswith("."):
        return f"{safe}.html"
    return f"{safe.lstrip('.')[:80]}-{hashlib.sha256(patient_id.encode()).hexdigest()[:8]}.html"
