"""What a network of openai/guided-diffusion is, read off the names and shapes of its parameters (no torch).

Names: input_blocks.N holds the first convolution, then for each level its residual blocks (N.0, attention as N.1) and,
but for the last level, what halves the map: a convolution (`op`) or one more residual block. output_blocks mirrors it.
Errors name no file: whoever read it does.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tumorcast.errors import InputError, UsageError
from tumorcast.settings import Architecture

Shapes = Mapping[str, tuple[int, ...]]

SOURCE = "openai/guided-diffusion"
NORM_GROUPS = 32
NAMES_LISTED = 3


@dataclass(frozen=True)
class _Depth:
    """levels: how many sizes of the map; res_blocks: residual blocks at each."""

    levels: int
    res_blocks: int

    def start(self, level: int) -> int:
        """The place among the input blocks where a level starts."""
        return 1 + level * (self.res_blocks + 1)


@dataclass(frozen=True)
class _EncoderShapes:
    """The input blocks after the first: their widths, whether they attend, and which are convolutions (from 1)."""

    widths: tuple[int, ...]
    attends: tuple[bool, ...]
    convolutions: tuple[int, ...]


def infer_denoiser(shapes: Shapes, *, image_size: int, head_channels: int | None) -> Architecture:
    """The architecture of a `UNetModel`. Raises InputError if our U-Net has no such form, UsageError for an option."""
    if not _block_numbers(shapes, "output_blocks"):
        raise InputError(f"no output_blocks, so it is no U-Net of {SOURCE}; an encoder is given as --regressor")
    encoder = _encoder_of(shapes)
    depth = _depth_by_convolutions(encoder) if encoder.convolutions else _depth_by_decoder(shapes)
    _check_heads(shapes, head_channels, "--denoiser-head-channels")
    common = _common(shapes, encoder, depth, image_size)
    outputs, inputs = _shape(shapes, "out.2.weight", 4)[0], common["in_channels"]
    if outputs not in (inputs, 2 * inputs):
        raise InputError(
            f"out.2.weight: {outputs} channels out for {inputs} in; a denoiser has as many, or twice as many "
            "(learned sigma)"
        )
    classes = _classes(shapes)
    return _architecture(common | {"out_channels": outputs, "head_channels": head_channels, "classes": classes})


def infer_regressor(shapes: Shapes, *, image_size: int | None, head_channels: int) -> Architecture:
    """The architecture of an `EncoderUNetModel` with attention pooling and one output.

    image_size: what the user says, None if nothing; it must be what the pool tells. Errors as of `infer_denoiser`.
    """
    if _block_numbers(shapes, "output_blocks"):
        raise InputError("has output_blocks, so it is a U-Net and no encoder; give it as --denoiser")
    pool = "out.1" if "out.1.positional_embedding" in shapes else "out.2"  # the paper's code leaves out the SiLU
    encoder, side = _encoder_of(shapes), _pool_side(shapes, pool)
    depths = [_depth_by_convolutions(encoder)] if encoder.convolutions else _even_depths(encoder)
    size, depth = _choose({side << (depth.levels - 1): depth for depth in depths}, image_size, side)
    _check_heads(shapes, head_channels, "--regressor-head-channels")
    outputs = _shape(shapes, f"{pool}.c_proj.weight", 3)[0]
    if outputs != 1:
        raise InputError(
            f"{pool}.c_proj.weight: {outputs} outputs; a regressor of size has 1, a classifier is of no use"
        )
    own = {"out_channels": 1, "head_channels": head_channels, "pool_activation": pool == "out.2"}
    return _architecture(_common(shapes, encoder, depth, size) | own)


def check_same(found: Shapes, expected: Shapes) -> None:
    """Raises InputError unless all names and shapes are alike, telling the first that are not."""
    differences = "; ".join(_left_over(expected, found, "missing") + _left_over(found, expected, "unknown"))
    if differences:
        raise InputError(f"parameters {differences}; it must be the whole state dict of a network of {SOURCE}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise InputError(
                f"{name}: shape {found[name]}, expected {shape}; the network is of another form than {SOURCE}'s"
            )


def _left_over(here: Shapes, there: Shapes, what: str) -> list[str]:
    """What is said of the names that are only here: nothing, or one text."""
    names = [name for name in here if name not in there]
    more = f" and {len(names) - NAMES_LISTED} more" if len(names) > NAMES_LISTED else ""
    return [f"{what}: {', '.join(names[:NAMES_LISTED])}{more}"] if names else []


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a parameter that must be there."""
    if name not in shapes:
        raise InputError(f"no {name}; it must be the whole state dict of a network of {SOURCE}")
    if len(shapes[name]) != axes:
        raise InputError(f"{name}: shape {shapes[name]}, expected {axes} axes; networks are of 2D images")
    return shapes[name]


def _block_numbers(shapes: Shapes, blocks: str, layer: str = "") -> list[int]:
    """The numbers N for which there is a parameter `blocks`.N.`layer`…, in order.

    >>> _block_numbers({"input_blocks.2.0.op.weight": (), "input_blocks.1.0.in_layers.2.weight": ()}, "input_blocks")
    [1, 2]
    """
    pattern = re.compile(rf"{blocks}\.(\d+)\.{layer}")
    return sorted({int(match[1]) for match in map(pattern.match, shapes) if match})


def _encoder_of(shapes: Shapes) -> _EncoderShapes:
    places = _block_numbers(shapes, "input_blocks")
    for before, after in pairwise([-1, *places]):
        if after != before + 1:
            raise InputError(
                f"input_blocks.{before + 1} has no parameters; halving without weights (conv_resample=False) is not in "
                "tumorcast's networks"
            )
    convolutions = _block_numbers(shapes, "input_blocks", r"0\.op\.")
    attends = _block_numbers(shapes, "input_blocks", r"1\.qkv\.")
    layers = {n: "op" if n in convolutions else "in_layers.2" for n in places[1:]}
    widths = tuple(_shape(shapes, f"input_blocks.{n}.0.{layer}.weight", 4)[0] for n, layer in layers.items())
    return _EncoderShapes(widths, tuple(n in attends for n in layers), tuple(convolutions))


def _depth_by_convolutions(encoder: _EncoderShapes) -> _Depth:
    return _Depth(levels=len(encoder.convolutions) + 1, res_blocks=encoder.convolutions[0] - 1)


def _depth_by_decoder(shapes: Shapes) -> _Depth:
    """The last block of a level of the decoder has a second residual block, which doubles the map."""
    ups = _block_numbers(shapes, "output_blocks", r"[12]\.in_layers\.")
    return _Depth(levels=len(ups) + 1, res_blocks=ups[0] if ups else len(_block_numbers(shapes, "output_blocks")) - 1)


def _even_depths(encoder: _EncoderShapes) -> list[_Depth]:
    """Every division into levels that the residual blocks of an encoder allow, where all look alike."""
    blocks = len(encoder.widths) + 1
    periods = [period for period in range(2, blocks + 1) if blocks % period == 0 and _even(encoder, period)]
    if not periods:
        raise InputError(f"its {blocks - 1} input blocks are not in levels alike, as those of {SOURCE} are")
    return [_Depth(levels=blocks // period, res_blocks=period - 1) for period in periods]


def _even(encoder: _EncoderShapes, period: int) -> bool:
    """Whether width and attention change at the starts of levels alone; the block that halves never attends."""
    return all(
        encoder.widths[i] == encoder.widths[i - 1]
        and encoder.attends[i] == (encoder.attends[i - 1] and i % period < period - 1)
        for i in range(1, len(encoder.widths))
        if i % period
    )


def _choose(by_size: dict[int, _Depth], image_size: int | None, side: int) -> tuple[int, _Depth]:
    """The size of image and the depth; the user tells where the pool leaves more than one."""
    sizes = " or ".join(map(str, sorted(by_size)))
    if image_size is None and len(by_size) > 1:
        raise UsageError(f"fits images of {sizes} px alike; tell which one it was trained on with --image-size")
    size = next(iter(by_size)) if image_size is None else image_size
    if size not in by_size:
        raise UsageError(
            f"--image-size {size}: its pool of {side}×{side} is of {sizes} px images; leave out the option"
        )
    return size, by_size[size]


def _common(shapes: Shapes, encoder: _EncoderShapes, depth: _Depth, image_size: int) -> dict[str, Any]:
    """What U-Net and encoder tell alike."""
    channels = _shape(shapes, "time_embed.0.weight", 2)[1]
    if channels % NORM_GROUPS:
        raise InputError(f"time_embed.0.weight: {channels} channels, expected a multiple of {NORM_GROUPS}")
    if depth.res_blocks < 1:
        raise InputError(f"its first level has no residual block before it is halved; it must be a network of {SOURCE}")
    starts = [depth.start(level) for level in range(depth.levels) if depth.start(level) <= len(encoder.widths)]
    first = "input_blocks.1.0"
    embedded = _shape(shapes, f"{first}.emb_layers.1.weight", 2)[0]
    return {
        "image_size": image_size,
        "in_channels": _shape(shapes, "input_blocks.0.0.weight", 4)[1],
        "channels": channels,
        "channel_mult": tuple(_multiple(encoder.widths[n - 1], channels, n) for n in starts),
        "res_blocks": depth.res_blocks,
        "attention_resolutions": tuple(image_size >> k for k, n in enumerate(starts) if encoder.attends[n - 1]),
        "scale_shift_norm": embedded == 2 * _shape(shapes, f"{first}.in_layers.2.weight", 4)[0],
        "resblock_updown": depth.levels > 1 and not encoder.convolutions,
    }


def _multiple(width: int, channels: int, block: int) -> int:
    if width % channels:
        raise InputError(f"input_blocks.{block} is {width} wide, expected a multiple of the network's {channels}")
    return width // channels


def _classes(shapes: Shapes) -> int | None:
    """How many classes the network is conditioned on; None if it is not."""
    if "label_emb.weight" not in shapes:
        return None
    classes = _shape(shapes, "label_emb.weight", 2)[0]
    if classes < 2:
        raise InputError("label_emb.weight: 1 class; class 1 is that of slices with tumour, so there must be 2")
    return classes


def _pool_side(shapes: Shapes, pool: str) -> int:
    """The side of the map that is pooled. Raises InputError for a pool that is not attention."""
    name = f"{pool}.positional_embedding"
    if name not in shapes:
        raise InputError(f"{_other_pool(shapes)}; tumorcast's regressor has EncoderUNetModel's pool='attention'")
    columns = _shape(shapes, name, 2)[1]
    side = math.isqrt(max(columns - 1, 0))
    if side < 1 or side**2 != columns - 1:
        raise InputError(f"{name}: {columns} columns, expected 1 + a square, that of the map's side")
    return side


def _other_pool(shapes: Shapes) -> str:
    if "out.3.weight" in shapes:
        return "its pool is an average (pool='adaptive', out.3)"
    if len(shapes.get("out.0.weight", shapes.get("out.weight", ()))) == 2:
        return "its pool is linear over the means of all blocks (pool='spatial')"
    return "no out.2.positional_embedding"


def _check_heads(shapes: Shapes, head_channels: int | None, option: str) -> None:
    """Every attention must divide into heads of this width."""
    for name in shapes:
        if name.endswith((".qkv.weight", ".qkv_proj.weight")):
            width = _shape(shapes, name, 3)[1]
            if head_channels is not None and width % head_channels:
                raise UsageError(
                    f"{option} {head_channels}: {name} is {width} wide; give the divisor it was trained with"
                )


def _architecture(values: dict[str, Any]) -> Architecture:
    return Architecture.of(values, "as its shapes tell")
