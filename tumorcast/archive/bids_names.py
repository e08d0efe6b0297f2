"""The names in a BIDS data set of maps: labels of patients and sessions, and the files of one scan's forecast.

After the BIDS specification 1.10 (https://bids-specification.readthedocs.io), derivatives of anatomical images.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from tumorcast.archive.nifti import Space
from tumorcast.records import Contrast

SPACE_LABELS = {Space.NATIVE: "orig", Space.COHORT: "cohort"}
CONTRASTS = {  # the entity of a contrast agent, and the suffix
    Contrast.T1N: ("", "T1w"),
    Contrast.T1C: ("ce-gadolinium", "T1w"),
    Contrast.T2W: ("", "T2w"),
    Contrast.T2F: ("", "FLAIR"),
}
DISTINCT = 8  # hexadecimal digits that tell apart two names of which the letters and digits are the same


def labels_of(names: Iterable[str], entity: str) -> dict[str, str]:
    """A BIDS label for each name: its letters and digits, and where these are not its own, the start of its SHA-256.

    entity: sub or ses; a name that begins with it, as those of a BIDS data set do, is taken without.

    >>> labels_of(["TCGA-DU-7294", "sub-01"], "sub")
    {'TCGA-DU-7294': 'TCGADU7294', 'sub-01': '01'}
    >>> sorted(labels_of(["P-1", "P1", "å"], "sub").values())
    ['P182988760', 'P1fbeae7c1', 'e83979df']
    """
    plain = {name: re.sub("[^0-9A-Za-z]", "", name.removeprefix(f"{entity}-")) for name in names}
    shared = Counter(label.lower() for label in plain.values())  # some file systems take a for A
    return {
        name: label if label and shared[label.lower()] == 1 else label + _digits(name) for name, label in plain.items()
    }


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:DISTINCT]


@dataclass(frozen=True)
class ScanName:
    """One scan's forecast in the data set."""

    subject: str
    session: str

    @property
    def folder(self) -> PurePosixPath:
        """Where its images lie, from the root of the data set.

        >>> ScanName("P1", "000").folder.as_posix()
        'sub-P1/ses-000/anat'
        """
        return PurePosixPath(f"sub-{self.subject}", f"ses-{self.session}", "anat")

    @property
    def sessions(self) -> PurePosixPath:
        """The table of the patient's sessions, without its ending."""
        return PurePosixPath(f"sub-{self.subject}", f"sub-{self.subject}_sessions")

    def file(self, *entities: str) -> PurePosixPath:
        """A file of the scan, without its ending; entities that are empty are left out.

        >>> ScanName("P1", "000").file("space-orig", "", "label-tumor", "probseg").name
        'sub-P1_ses-000_space-orig_label-tumor_probseg'
        """
        words = (f"sub-{self.subject}", f"ses-{self.session}", *entities)
        return self.folder / "_".join(word for word in words if word)
