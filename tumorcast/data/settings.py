"""What a user can ask of `tumorcast prepare`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Any, assert_never

from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.imaging.geometry import IMAGE_SIZES
from tumorcast.data.readers.labels import LabelScheme
from tumorcast.errors import UsageError
from tumorcast.records import Contrast

VOXEL_MM = 2.0  # of volumes
LEAST_VOXEL_MM, LARGEST_VOXEL_MM = 0.5, 5.0


class SliceChoice(StrEnum):
    """Which slices are kept: those with enough tumour, all with enough brain, or the one with the most tumour.

    balanced, for training: those with enough tumour, and half as many without any, evenly spread over the brain.
    """

    TUMOUR = "tumour"
    ALL = "all"
    LARGEST = "largest"
    BALANCED = "balanced"


class TumourPart(StrEnum):
    """What of a BraTS mask is the tumour whose size is followed: all labels, 1 and 3, or 3 alone."""

    WHOLE = "whole"
    CORE = "core"
    ENHANCING = "enhancing"

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels of BraTS 2023: 1 necrotic or non-enhancing core, 2 oedema, 3 enhancing."""
        match self:
            case TumourPart.WHOLE:
                return (1, 2, 3)
            case TumourPart.CORE:
                return (1, 3)
            case TumourPart.ENHANCING:
                return (3,)
            case _:
                assert_never(self)

    def absence(self, present: Sequence[int]) -> str:
        """What to say of a mask whose labels, of BraTS 2023, are none of these."""
        there, wanted = ", ".join(map(str, present)), " or ".join(map(str, self.labels))
        return (
            f"its mask has no label {wanted} (--tumour {self}), only {there}: leave --tumour out, or say what its "
            f"labels mean, as --labels {present[0]}:{self.labels[-1]}"
        )


class Register(StrEnum):
    """Whether images are laid on each other, or taken to lie so already."""

    NONE = "none"
    RIGID = "rigid"


@dataclass(frozen=True)
class PrepareSettings:
    """How scans become slices.

    contrasts: None takes those that every scan has. min_tumour_mm2: the least tumour area of a slice chosen for it.
    tumour: the labels that count; the others become 0.
    register, deformable: see tumorcast.data.patient_space. n4: correct bias. brain_mask: where the masks of brains lie,
    and brain_tool: the command that makes them (data.brain); they take the place of `brain`.
    labels: what the labels of masks mean, where no table says it; None asks where a mask cannot tell.
    voxel_mm: side of the voxels of the volume that is kept beside the slices; 0 keeps none.
    """

    image_size: int = 128
    contrasts: tuple[Contrast, ...] | None = None
    slices: SliceChoice = SliceChoice.TUMOUR
    min_tumour_mm2: float = 50.0
    brain: BrainMask = BrainMask.AUTO
    tumour: TumourPart = TumourPart.WHOLE
    register: Register = Register.NONE
    deformable: bool = False
    n4: bool = False
    brain_mask: str | None = None
    brain_tool: str | None = None
    labels: LabelScheme | None = None
    voxel_mm: float = VOXEL_MM

    def __post_init__(self) -> None:
        """Raises UsageError for a value that is not allowed; puts contrasts into their one order."""
        if self.image_size not in IMAGE_SIZES:
            raise UsageError(f"--image-size {self.image_size}: allowed are {', '.join(map(str, IMAGE_SIZES))}")
        if not self.min_tumour_mm2 > 0:
            raise UsageError(f"--min-tumour-mm2 {self.min_tumour_mm2:g}: must be greater than 0")
        if self.voxel_mm and not LEAST_VOXEL_MM <= self.voxel_mm <= LARGEST_VOXEL_MM:
            raise UsageError(
                f"--voxel-mm {self.voxel_mm:g}: must be {LEAST_VOXEL_MM:g} to {LARGEST_VOXEL_MM:g}, or 0 for no volumes"
            )
        if self.contrasts is not None:
            if not self.contrasts:
                raise UsageError(f"--contrasts is empty; give some of {','.join(Contrast)}")
            object.__setattr__(self, "contrasts", tuple(c for c in Contrast if c in self.contrasts))
        if self.deformable and self.register is Register.NONE:
            raise UsageError("--deformable: is a second step after --register rigid; give both")
        self._refuse_two_brains()

    def _refuse_two_brains(self) -> None:
        named = {"--brain": self.brain is not BrainMask.AUTO, "--brain-mask": self.brain_mask is not None}
        asked = [name for name, given in (named | {"--brain-tool": self.brain_tool is not None}).items() if given]
        if len(asked) > 1:
            raise UsageError(f"{' and '.join(asked)}: each says where the brain is; give one")

    @property
    def brain_is_given(self) -> bool:
        """Whether the brain comes from outside: a mask's file, or a tool."""
        return self.brain_mask is not None or self.brain_tool is not None

    def recorded(self) -> dict[str, Any]:
        """What the cohort file keeps: no folder, as its name can be a person's.

        >>> PrepareSettings(brain_tool="/home/ann/bin/hd-bet -i {input} -o {output}").recorded()["brain_tool"]
        'hd-bet -i {input} -o {output}'
        """
        kept = asdict(self) | {"labels": None if self.labels is None else self.labels.record()}
        if self.contrasts is not None:
            kept["contrasts"] = [str(contrast) for contrast in self.contrasts]
        kept |= {name: str(value) for name, value in kept.items() if isinstance(value, StrEnum)}
        for name in ("brain_mask", "brain_tool"):
            if kept[name] is not None:
                kept[name] = without_folders(kept[name])
        return kept


def without_folders(text: str) -> str:
    """Each word's last part: of a path its name."""
    return " ".join(PurePath(word).name or word for word in text.split())
