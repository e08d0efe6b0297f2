"""Which contrast a DICOM series shows: rules on what its header says. docs/formats.md has them in words.

The description is what a technician typed, so it is matched loosely; what no word tells, the times of the sequence do.
Nothing of a header is kept or shown: a description may name a patient.
"""

import math
import re
from collections.abc import Mapping

from tumorcast.records import Contrast

TAGS = {
    "modality": 0x0008_0060,
    "image_type": 0x0008_0008,
    "description": 0x0008_103E,
    "protocol": 0x0018_1030,
    "agent": 0x0018_0010,
    "sequence": 0x0018_0020,
    "repetition_ms": 0x0018_0080,
    "echo_ms": 0x0018_0081,
    "inversion_ms": 0x0018_0082,
}
# A word of a description; a digit, a letter or a plus beside it would make another word.
WORD = r"(?<![a-z0-9+])(?:{})(?![a-z0-9+])"
NO_ANATOMY = re.compile(
    WORD.format(
        r"loc\w*|scout|survey|calib\w*|shim|dwi|dti|diff\w*|adc|e?trace\w*|perf\w*|dsc|dce|asl|swi|swan|mag|pha\w*|"
        r"min\W?ip|mip|mpr|reformat\w*|mra|mrv|tof|angio\w*|fmri|bold|mrs|spectro\w*|sub\w*|screen\w*|gre|hemo|b0|fieldmap|"
        r"\w*mask\w*|s?dt1|[ns]?r?cb[fv]|mtt|ttp|ktrans"
    )
    + r"|t2\s*(\*|star)|ep2d"
)
FLAIR = re.compile(r"flair|tirm|dark\W?fl")
T2 = re.compile(r"t2")
T1 = re.compile(r"t1|mp\W?rage|bravo|spgr|vibe|tfl|tfe")
AFTER = re.compile(
    WORD.format(r"post\w*|gad\w*|gd|km|ce|contrast|enh\w*|cm|dotarem|gadovist|t1c|t1ce|t1gd|t1post")
    + r"|\+\W?c\b|\bc\W?\+|\+\W?gd"
)
BEFORE = re.compile(WORD.format(r"pre\w*|w\W?o|without|non\w*|no|nativ\w*|ohne|plain"))
NO_AGENT = ("", "no", "none", "n", "0")
NO_IMAGE = ("LOCALIZER", "PROJECTION IMAGE", "MIP", "MPR", "ADC", "SUBTRACTION", "DERIVED\\SECONDARY\\OTHER")
LONG_ECHO_MS = 60.0  # above: T2-weighted; T1-weighted sequences are below SHORT_ECHO_MS
SHORT_ECHO_MS = 30.0
LONG_REPETITION_MS = 2000.0
SHORT_REPETITION_MS = 1200.0
FLAIR_INVERSION_MS = 1500.0  # water is nulled at 2000 to 2800 ms, white matter of an MPRAGE is prepared by some 900


def contrast_of(tags: Mapping[str, str]) -> Contrast | None:
    """What a series shows, None for what is none of the four contrasts. tags: of TAGS, blank where absent.

    >>> [contrast_of({"modality": "MR", "description": text}) for text in ("Ax T1 POST", "AX T2 FLAIR", "DWI b1000")]
    [<Contrast.T1C: 't1c'>, <Contrast.T2F: 't2f'>, None]
    """
    words = (tags.get("description") or tags.get("protocol") or "").lower().replace("_", " ")
    kinds = tags.get("image_type", "").upper()
    if tags.get("modality") != "MR" or NO_ANATOMY.search(words) or any(kind in kinds for kind in NO_IMAGE):
        return None
    weighted = _by_words(words) or _by_times(tags)
    if weighted is not Contrast.T1N:
        return weighted
    return Contrast.T1C if _after_contrast(words, tags.get("agent", "")) else Contrast.T1N


def _by_words(words: str) -> Contrast | None:
    """The weighting that a description tells; a "T1 FLAIR" is weighted by T1."""
    if T1.search(words) and not T2.search(words):
        return Contrast.T1N
    if FLAIR.search(words):
        return Contrast.T2F
    return Contrast.T2W if T2.search(words) else None


def _by_times(tags: Mapping[str, str]) -> Contrast | None:
    """The weighting that follows from the times of a sequence that is no echo-planar one."""
    repetition, echo, inversion = (number(tags.get(f"{name}_ms", "")) for name in ("repetition", "echo", "inversion"))
    if "EP" in tags.get("sequence", "").upper():
        return None
    if echo >= LONG_ECHO_MS and repetition >= LONG_REPETITION_MS:
        return Contrast.T2F if inversion >= FLAIR_INVERSION_MS else Contrast.T2W
    prepared = 0 < inversion < FLAIR_INVERSION_MS
    return Contrast.T1N if echo <= SHORT_ECHO_MS and (repetition <= SHORT_REPETITION_MS or prepared) else None


def _after_contrast(words: str, agent: str) -> bool:
    """Whether contrast agent was given: as the words tell, or where they tell nothing or both, as the header does."""
    after, before = AFTER.search(words) is not None, BEFORE.search(words) is not None
    return after if after != before else agent.strip().lower() not in NO_AGENT


def number(text: str) -> float:
    """The first number of a header's text; NaN where there is none, which no comparison holds of."""
    try:
        return float(text.split("\\", maxsplit=1)[0])
    except ValueError:
        return math.nan
