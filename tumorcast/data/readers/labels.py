"""What the labels of a tumour's mask mean: one table of the schemes in use, and which of them a mask is read by.

A scheme renames a mask's labels to those of BraTS 2023. Which scheme it is tell, in this order: the table's column
`labels`, `--labels`, the data set's name, the labels that are there. Where two schemes would read a mask differently
and nothing tells which is meant, it is refused with the question.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.counted import counted
from tumorcast.errors import InputError, UsageError

NEAR_WHOLE = 0.01  # labels that went through a slope come back so near to whole numbers
MEANINGS = "0 none, 1 core, 2 oedema, 3 enhancing"
PAIR = re.compile(r"(?P<found>-?[0-9]{1,5}):(?P<meant>[0-3])")


@dataclass(frozen=True)
class LabelScheme:
    """What the labels of a mask are called in BraTS 2023 (1 core, 2 oedema, 3 enhancing; 0: no tumour)."""

    name: str
    meaning: Mapping[int, int]

    def takes(self, labels: list[int]) -> bool:
        """Whether all these labels, but for 0, are its own."""
        return all(label in self.meaning for label in labels)

    def record(self) -> dict[str, Any]:
        """The scheme as the cohort file keeps it."""
        return {"scheme": self.name, "meaning": {str(found): meant for found, meant in self.meaning.items()}}

    def __str__(self) -> str:
        """As `--labels` and a table's cell would write it: 1:3 2:1."""
        return " ".join(f"{found}:{meant}" for found, meant in self.meaning.items())


# Sources: docs/formats.md, "Labels".
BRATS_2023 = LabelScheme("brats2023", {1: 1, 2: 2, 3: 3})
BRATS_2021 = LabelScheme("brats2021", {1: 1, 2: 2, 4: 3})  # and 2017 to 2020
BRATS_2016 = LabelScheme("brats2016", {1: 1, 2: 2, 3: 1, 4: 3})  # and before: 3 was the non-enhancing core
POST_TREATMENT = LabelScheme("post-treatment", {1: 1, 2: 2, 3: 3, 4: 0})  # 4: the resection cavity
PEDIATRIC = LabelScheme("brats-peds", {1: 3, 2: 1, 3: 1, 4: 2})  # enhancing, non-enhancing, cyst, oedema
DEEPBRATUMIA = LabelScheme("deepbratumia", {1: 3, 2: 1, 3: 2})
HD_GLIO = LabelScheme("hd-glio", {1: 2, 2: 3})
MSD = LabelScheme("msd", {1: 2, 2: 1, 3: 3})  # Medical Segmentation Decathlon, task 1
GROSS_TUMOUR = LabelScheme("gtv", {1: 3})  # BraTS-MEN-RT and other masks of one label: all that enhances
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        *(BRATS_2023, BRATS_2021, BRATS_2016, POST_TREATMENT, PEDIATRIC),
        *(DEEPBRATUMIA, HD_GLIO, MSD, GROSS_TUMOUR),
    )
}


@dataclass(frozen=True)
class LabelRule:
    """The schemes that a mask may be of.

    usual: the first of these that has all of the mask's labels is taken; named: whether a name tells the data set.
    """

    usual: tuple[LabelScheme, ...]
    others: tuple[LabelScheme, ...] = ()
    of: str = "a mask whose file name tells no data set"
    named: bool = True

    @classmethod
    def only(cls, scheme: LabelScheme) -> "LabelRule":
        """The rule of a scheme that is known."""
        return cls((scheme,), (), scheme.name)


HAVING_4 = (POST_TREATMENT, PEDIATRIC, BRATS_2016)
ANY = LabelRule((BRATS_2023,), (BRATS_2021, *HAVING_4), named=False)
NAMED_AS_UNTIL_2021 = LabelRule(
    (BRATS_2021, BRATS_2023), HAVING_4, "files named as until 2021 (_t1ce, _flair)", named=False
)
DATA_SETS = (  # how scans of a set are called, and what their masks may be
    (
        r"BraTS\d*[-_]?PEDs?(?![a-z])",
        LabelRule((), (PEDIATRIC, BRATS_2023), "BraTS-PEDs (adult in 2023, own since 2024)"),
    ),
    (r"BraTS\d*[-_]MEN[-_]RT", LabelRule.only(GROSS_TUMOUR)),
    (r"BraTS\d*[-_](GLI|MET|SSA|MEN|GoAT)(?![a-z])", LabelRule.only(POST_TREATMENT)),
    (
        r"BraTS(20)?(17|18|19|20|21)_|UCSF-PDGM|UPENN-GBM|TCGA-",
        LabelRule((BRATS_2021, BRATS_2023), (), "BraTS until 2021"),
    ),
    (r"PatientID_\d|UCSD-PTGBM|10\d{4}_time\d", LabelRule.only(POST_TREATMENT)),
    (r"BRATS_\d{3}$", LabelRule((), (MSD, BRATS_2023), "the Medical Segmentation Decathlon's names")),
)


def rule_of(scan: str, otherwise: LabelRule = ANY) -> LabelRule:
    """The rule that a scan's name tells.

    >>> [[one.name for one in rule_of(scan).usual] for scan in ("BraTS-PED-00001-000", "TCGA-DU-7294", "P001")]
    [[], ['brats2021', 'brats2023'], ['brats2023']]
    """
    return next((rule for pattern, rule in DATA_SETS if re.match(pattern, scan, re.IGNORECASE)), otherwise)


def parsed(where: str, text: str) -> LabelScheme:
    """The scheme that a table's cell or `--labels` names, or spells out as `1:3 2:1 4:0`. Raises UsageError."""
    if text.lower() in SCHEMES:
        return SCHEMES[text.lower()]
    words = text.replace(",", " ").split()
    pairs = [PAIR.fullmatch(word) for word in words]
    meaning = {int(pair["found"]): int(pair["meant"]) for pair in pairs if pair}
    if not words or len(meaning) < len(words):
        raise UsageError(
            f"{where} is {text!r}; name a scheme ({', '.join(SCHEMES)}), or write the mask's labels with those of "
            f"BraTS 2023 ({MEANINGS}), each once, as 1:3 2:1 4:0"
        )
    return LabelScheme("given", meaning)


@dataclass(frozen=True)
class MaskLabels:
    """A mask as read. labels: as its voxels, uint8, of BraTS 2023; assumed: by no name of a data set."""

    labels: npt.NDArray[np.uint8]
    scheme: LabelScheme
    assumed: bool
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """What the cohort file keeps: the scheme, and whether it was assumed."""
        return self.scheme.record() | {"assumed": self.assumed}


def read_labels(path: Path, voxels: npt.NDArray[Any], rule: LabelRule) -> MaskLabels:
    """Labels of a mask by its rule. Raises InputError for what are no labels, and where their meaning must be asked.

    voxels: of any shape and type; within .01 of a whole number they are that number.
    """
    values = np.unique(voxels)
    rounded = np.rint(values)
    odd = np.flatnonzero(np.abs(values - rounded) > NEAR_WHOLE)
    if odd.size:
        text, count = np.format_float_positional(values[odd[0]], trim="-"), int((voxels == values[odd[0]]).sum())
        raise InputError(
            f"{path}: label {text} found, in {counted(count, 'voxel')}; labels are whole numbers (within "
            f"{NEAR_WHOLE:g}): give the mask itself, not a probability or what interpolation made of it"
        )
    labels = sorted({int(value) for value in rounded if value})
    scheme = _scheme(path, labels, rule)
    meant = np.array([scheme.meaning.get(int(value), 0) for value in rounded], np.uint8)
    cavity = [str(label) for label in labels if scheme.meaning[label] == 0]
    notes = (f"label {', '.join(cavity)} of its mask is no tumour ({scheme.name}: a cavity), and left out",)
    return MaskLabels(meant[np.searchsorted(values, voxels)], scheme, not rule.named, notes if cavity else ())


def _scheme(path: Path, labels: list[int], rule: LabelRule) -> LabelScheme:
    usual = next((scheme for scheme in rule.usual if scheme.takes(labels)), None)
    if usual is not None:
        return usual
    fitting = [scheme for scheme in rule.others if scheme.takes(labels)]
    listed = ", ".join(map(str, labels))
    if not labels:
        return rule.others[0]
    if not fitting:
        known = (*rule.usual, *rule.others)
        if known == (LabelScheme("given", known[0].meaning),):
            lacking = ", ".join(str(label) for label in labels if label not in known[0].meaning)
            raise InputError(
                f"{path}: labels {listed}; --labels, or its table, does not say what {lacking} means: add it"
            )
        schemes = " or ".join(f"{scheme.name} ({', '.join(map(str, scheme.meaning))})" for scheme in known)
        example = " ".join(f"{label}:{max(0, min(label, 3))}" for label in labels)
        raise InputError(
            f"{path}: labels {listed}; {rule.of} has those of {schemes}: say what each means with --labels, as "
            f"'{example}' ({MEANINGS})"
        )
    if len({tuple(scheme.meaning[label] for label in labels) for scheme in fitting}) > 1:
        choices = "; ".join(f"--labels {scheme.name} ({scheme})" for scheme in fitting)
        raise InputError(
            f"{path}: labels {listed} of {rule.of} can mean several things; say which: {choices} ({MEANINGS})"
        )
    return fitting[0]
