"""What a user can set, as pydantic models. Unknown keys are errors; files are TOML."""

import tomllib
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from tumorcast.errors import UsageError


class Settings(BaseModel):
    """The base of every group of settings: frozen, closed to unknown keys, and of finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, values: dict[str, object], origin: str) -> Self:
        """Validate `values`; a fault is a UsageError that names `origin`, the key and what is allowed."""
        try:
            return cls.model_validate(values)
        except ValidationError as fault:
            raise UsageError(f"{origin}: {_describe(cls, fault)}") from None


def _describe(settings: type[Settings], fault: ValidationError) -> str:
    first = fault.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    group, field = _locate(settings, first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key '{key}'; known keys: {', '.join(sorted(group.model_fields))}"
        case "value_error":
            return str(first["msg"]).removeprefix("Value error, ")
        case "missing":
            return f"{key} is missing; give {_allowed(field)}"
        case _:
            more = f"; {field.description}" if field is not None and field.description else ""
            return f"{key} = {first.get('input')!r}: give {_allowed(field)}{more}"


def _locate(settings: type[Settings], key: tuple[int | str, ...]) -> tuple[type[Settings], FieldInfo | None]:
    """The group of settings in which `key` is, and its field; None for what is no setting."""
    group: type[Settings] = settings
    field: FieldInfo | None = None
    for part in key:
        inner = None if field is None else field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            group = inner
        if isinstance(part, str):
            field = group.model_fields.get(part)
    return group, field


def _allowed(field: FieldInfo | None) -> str:
    """What a setting may be, in words.

    >>> _allowed(ForecastSettings.model_fields["relative_change"]), _allowed(TrainSettings.model_fields["schedule"])
    ('a number above -1 and at most 20', 'cosine or constant')
    """
    if field is None:
        return "another value"
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    optional = isinstance(field.annotation, UnionType)
    kind = kinds[0] if optional else field.annotation
    item = get_args(kind)[0] if get_origin(kind) is tuple else None
    words = f"a list of {_SEVERAL.get(item, 'values')}" if item else _kind_in_words(kind)
    limits = [
        limit_words.format(limit)
        for rule in field.metadata
        for name, limit_words in _LIMITS.items()
        if (limit := getattr(rule, name, None)) is not None
    ]
    return f"{words} {' and '.join(limits)}".rstrip()


_LIMITS = {
    "gt": "above {}",
    "ge": "of {} or more",
    "lt": "below {}",
    "le": "at most {}",
    "multiple_of": "divisible by {}",
    "min_length": "with {} or more",
}
_SEVERAL: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts in quotes"}
_ONE: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


def _kind_in_words(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " or ".join(kind)
    if isinstance(kind, type) and issubclass(kind, Settings):
        return f"a table of {', '.join(sorted(kind.model_fields))}"
    return _ONE.get(kind, "another value")


class Architecture(Settings):
    """The shape of an ADM U-Net or encoder (Dhariwal & Nichol 2021), with the numbers openai/guided-diffusion uses.

    attention_resolutions: sizes of the feature map, in pixels, at which attention is applied.
    head_channels: width of an attention head; None means one head.
    pool_activation: a SiLU between norm and attention pool; the regressor of the paper's code has none.
    """

    image_size: int = Field(64, ge=8)
    in_channels: int = Field(4, ge=1)
    out_channels: int = Field(4, ge=1)
    channels: int = Field(32, ge=32, multiple_of=32)
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    res_blocks: int = Field(2, ge=1)
    attention_resolutions: tuple[int, ...] = (16, 8)
    head_channels: int | None = None
    classes: int | None = None
    scale_shift_norm: bool = False
    resblock_updown: bool = False
    pool_activation: bool = True

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
        factor = 2 ** (len(self.channel_mult) - 1)
        if self.image_size % factor:
            raise ValueError(f"image_size = {self.image_size} is not a multiple of {factor}, which channel_mult needs")
        return self


class VolumeArchitecture(Settings):
    """The shape of a progression network on volumes (arrival/network.py).

    in_channels: contrasts and three maps. widths: of the features, at full resolution and after each halving.
    voxel_mm: of the volumes that it is for.
    """

    in_channels: int = Field(7, ge=4)
    widths: tuple[int, ...] = Field((16, 32, 48, 64), min_length=4, max_length=4)
    voxel_mm: float = Field(2.0, gt=0)


class NetworkKind(StrEnum):
    """What a trained network is for. Progression: in volumes; slice-progression: in slices, each by itself."""

    DENOISER = "denoiser"
    DENSE_REGRESSOR = "dense-regressor"
    ATTENTION_POOL_REGRESSOR = "attention-pool-regressor"
    SEGMENTER = "segmenter"
    PROGRESSION = "progression"
    SLICE_PROGRESSION = "slice-progression"


class Precision(StrEnum):
    """The number format of an exported denoiser. All else is float32."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class CheckDepth(StrEnum):
    """How a bundle is compared with torch: at every noise level looked at, or one slice at the least and the most."""

    QUICK = "quick"
    FULL = "full"


class Provider(StrEnum):
    """What runs the networks: torch with autograd, the reference; or the exported graphs in ONNX Runtime."""

    TORCH = "torch"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


class RateSchedule(StrEnum):
    """How the learning rate goes on after its warm-up: as a cosine to zero at the last step, or unchanged."""

    COSINE = "cosine"
    CONSTANT = "constant"


class TrainSettings(Settings):
    """How a network is trained.

    batch: slices (or pairs) a step, over all processes together.
    noise_levels: diffusion times are drawn from 0 … noise_levels - 1 (of the schedule's 1000).
    tumour_share: the share of slices with tumour in a batch. Neither means anything to a progression network.
    compile: torch.compile on a CUDA device; elsewhere it is left out.
    leave_out: patients that are neither trained on nor looked at. validation_share: the share of the others that is
    never trained on; validate_every: steps from one look at them to the next. sheet_every: steps from one sheet of
    samples to the next; 0 draws none.
    """

    steps: int = Field(4000, ge=1)
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    schedule: RateSchedule = RateSchedule.COSINE
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(1e-4, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    noise_levels: int = Field(350, ge=1, le=1000)
    tumour_share: float = Field(0.75, ge=0, le=1)
    augment: bool = True
    bfloat16: bool = False
    compile: bool = False
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(250, ge=1)
    leave_out: tuple[str, ...] = ()
    validation_share: float = Field(0.05, ge=0, lt=1)
    validate_every: int = Field(250, ge=1)
    sheet_every: int = Field(1000, ge=0)


class Guidance(StrEnum):
    """How the regressor steers: Gauss–Newton on its gradient, or the paper's constant scale."""

    NORMALISED = "normalised"
    PAPER = "paper"


class Preset(StrEnum):
    """A named group of settings, of the sampler or of the growth fit: the usual, or the paper's with its faults."""

    DEFAULT = "default"
    PAPER = "paper"


class Decoding(StrEnum):
    """What of a slice is computed anew for each member."""

    BOX = "box"
    SLICE = "slice"


class SamplerSettings(Settings):
    """How one member is made from the present slice.

    noise_level: NL, the diffusion time up to which the slice is encoded.
    decoding: "box" computes of each member what lies round the tumour, as a departure from its encoding (decision
    0014); "slice" the whole slice. A model without graphs for boxes, and the paper's guidance, decode slices.
    levels: how many noise levels decoding in boxes visits; where steps alone are given, as many as those.
    steps: how many of the NL - 1 steps are taken each way where slices are decoded; None takes every one.
    order: of the integrator, 1 (DDIM) or 2 (two-step Adams–Bashforth, as many evaluations).
    encodings: how many times a slice is encoded, each with its own noise; the members share them. None: once a member.
    gain: the share of the remaining miss that one normalised step removes.
    scale: the paper's s_R, for `guidance = "paper"`.
    window_mm: standard deviation of the Gaussian window round the present tumour; None guides everywhere. Where the
    model has a progression network, what that network predicts takes its place.
    spread: standard deviation of the smooth noise on the logit of what the progression network predicts, which makes
    members grow to different places.
    seen_weight: of what the segmenter sees in the images, in the growth map, against the prediction (decision 0008).
    nearness_per_mm: how much the growth map's logit falls with each mm from the present outline: for a progression
    network that has learned from few patients. One that has learned from many knows it.
    """

    preset: Preset = Preset.DEFAULT
    guidance: Guidance = Guidance.NORMALISED
    noise_level: int = Field(200, ge=3, le=1000)
    decoding: Decoding = Decoding.BOX
    levels: int | None = Field(8, ge=2)
    steps: int | None = Field(20, ge=2)
    order: int = Field(2, ge=1, le=2)
    encodings: int | None = Field(4, ge=1)
    gain: float = Field(0.5, gt=0, le=4)
    scale: float = Field(50_000.0, gt=0)
    window_mm: float | None = Field(12.0, gt=0)
    spread: float = Field(1.0, ge=0)
    seen_weight: float = Field(0.1, ge=0, le=1)
    nearness_per_mm: float = Field(0.0, ge=0)

    @classmethod
    def paper(cls, noise_level: int = 200, scale: float = 50_000.0) -> Self:
        """The settings of arXiv 2509.09610, with every step and no window."""
        return cls(
            preset=Preset.PAPER,
            guidance=Guidance.PAPER,
            noise_level=noise_level,
            decoding=Decoding.SLICE,
            steps=None,
            order=1,
            encodings=None,
            scale=scale,
            window_mm=None,
        )

    @model_validator(mode="before")
    @classmethod
    def _levels_as_steps(cls, given: Any) -> Any:
        known = isinstance(given, dict) and "levels" not in given
        if known and isinstance(given.get("steps", ""), int | None):  # what is no number is told as steps
            return given | {"levels": given["steps"]}
        return given

    @property
    def in_boxes(self) -> bool:
        """Whether members are decoded in boxes, if the model can: the paper's guidance acts on whole slices."""
        return self.decoding is Decoding.BOX and self.guidance is Guidance.NORMALISED

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.steps is not None and self.steps > self.noise_level - 1:
            raise ValueError(
                f"steps = {self.steps} exceeds noise_level - 1 = {self.noise_level - 1}: lower steps (--steps)"
            )
        if self.levels is not None and self.levels > self.noise_level - 1:
            raise ValueError(
                f"levels = {self.levels} exceeds noise_level - 1 = {self.noise_level - 1}: lower levels in the "
                "settings file ([sampler] levels)"
            )
        if self.preset is Preset.PAPER and (self.steps, self.order, self.encodings, self.window_mm) != (
            None,
            1,
            None,
            None,
        ):
            raise ValueError(
                "preset = 'paper' takes every step by DDIM, encodes for each member and has no window: leave out "
                "steps, order, encodings and window_mm"
            )
        return self


class ForecastSettings(Settings):
    """One forecast of a cohort: what is asked for, and the ensemble.

    horizon_days: days after each patient's last scan; relative_change: the tumour area wanted over the present one,
    less one (0.25 is 25 % more). Exactly one of the two is given. later_horizons: further horizons of the growth maps
    in three dimensions, increasing; images are of the first alone.
    maps_only: sizes and growth maps without images.
    batch: images that go through a network together. block: the most members that are worked on, and kept in memory, as
    one unit; both are part of what a result is made of.
    change_threshold: a pixel has changed where |generated - original|, summed over contrasts, exceeds it (images are
    in [-1, 1]); the paper's binarised map is the share of members that changed.
    """

    horizon_days: float | None = Field(None, gt=0)
    later_horizons: tuple[float, ...] = ()
    maps_only: bool = False
    relative_change: float | None = Field(None, gt=-1, le=20, description="25 % more area is 0.25, 25 % less is -0.25")
    members: int = Field(16, ge=1, le=10_000)
    batch: int = Field(16, ge=1)
    block: int = Field(64, ge=1)
    seed: int = Field(0, ge=0)
    max_slices: int | None = Field(None, ge=1)
    change_threshold: float = Field(0.3, gt=0)
    keep_members: bool = False
    sampler: SamplerSettings = SamplerSettings()

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if (self.horizon_days is None) == (self.relative_change is None):
            raise ValueError(
                "give exactly one of horizon_days (--horizon-days) and relative_change (--relative-change)"
            )
        if any(after <= before for before, after in pairwise((self.horizon_days or 0.0, *self.later_horizons))):
            days = ",".join(f"{day:g}" for day in self.horizons)
            raise ValueError(f"horizons {days} (--horizon-days): give them in increasing order, each once")
        return self

    @property
    def horizons(self) -> tuple[float, ...]:
        """All horizons in days; none where a change is asked for."""
        return () if self.horizon_days is None else (self.horizon_days, *self.later_horizons)


def read_toml(path: Path) -> dict[str, object]:
    """The contents of a TOML file. Raises UsageError if it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read ({fault.strerror}); give a TOML file") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text in UTF-8; give a TOML file") from None
    except tomllib.TOMLDecodeError as fault:
        raise UsageError(f"{path}: not valid TOML ({fault}); correct it there") from None
