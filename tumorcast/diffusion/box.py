"""Make follow-ups of slices by computing what lies round the tumour alone (decision 0014).

The encoding of a slice is decoded to itself, so a member is that slice and a *departure* from it, d = (x - x_path)/√ᾱ,
which is zero away from the tumour. Of dd/dσ̄ = ε(x) - ε(x_path) both terms are computed in a box, where what its edge
does to them cancels, with group norms that take in what lies outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from tumorcast.diffusion.sampler import Array, Encodings, Indices, MemberTargets, StepEngine, blocks, start_of
from tumorcast.diffusion.schedule import BoxPlan, BoxStep, Step, plan_boxes
from tumorcast.settings import Architecture, SamplerSettings

LEAST_WINDOW = 0.25  # what the guidance's window exceeds lies in the box
MARGIN = 3 / 16  # of the image's side, round it
LEAST_BRAIN = 1e-3  # of a slice's brain, in a box
LEAST_MULTIPLE = 8  # pixels
LEAST_SIDES = 4  # multiples that the side of an image has, for boxes
LEAST_SHARE = 2  # a box's side is the image's over this, or more


@dataclass(frozen=True)
class EncodedPath:
    """Encodings at one noise level, in boxes, one row each.

    x, eps: (N, C, S, S). outside: (N, G, 2), what norms see outside of the box (BoxEngine.survey).
    """

    x: Array
    eps: Array
    outside: Array

    def __getitem__(self, rows: Indices) -> "EncodedPath":
        """Some of the encodings, once a member."""
        return EncodedPath(self.x[rows], self.eps[rows], self.outside[rows])


@dataclass(frozen=True)
class BoxGuidance:
    """As StepGuidance, in the box. target: (N,) tumour over brain pixels of the box. brain, window: (N, S, S)."""

    target: Array
    brain: Array
    window: Array
    gain: float


class BoxEngine(StepEngine, Protocol):
    """What decoding in boxes asks of an engine."""

    def survey(self, x: Array, step: Step, previous_eps: Array, outside: Array) -> tuple[Array, Array, Array]:
        """An encode_step, and (N, G, 2) the mean and variance of every norm's groups outside of a box.

        outside: (N, H, W), 1 outside of the box.
        """

    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]:
        """The next departure (N, C, S, S), ε(x) - path.eps, and R(x, t) (N,) in the box."""

    def decode_in_box(
        self,
        steps: Sequence[BoxStep],
        levels: Sequence[EncodedPath],
        starts: Indices,
        guidance: BoxGuidance,
        targets: Array,
    ) -> Array:
        """The departures (N, C, S, S) after the last of K such steps, from none.

        levels: the encodings at each of the steps. starts: (N,) which row of them each member departs from. targets:
        (K, N), step k's in place of the guidance's own.
        """


@dataclass(frozen=True)
class SliceBox:
    """A square of a slice: its first row and column, and pixels a side."""

    row: int
    column: int
    side: int

    @classmethod
    def round(cls, window: Array, multiple: int) -> Self:
        """Round all (M, H, W) weights of a guidance; edges and side are multiples of `multiple`, which the image is."""
        size = window.shape[-1]
        seen = (window > LEAST_WINDOW).any(axis=0)
        if not seen.any():
            return cls(0, 0, size)
        margin = round(MARGIN * size)
        spans = [(int(places.min()) - margin, int(places.max()) + 1 + margin) for places in np.nonzero(seen)]
        starts = [max(0, start) // multiple * multiple for start, _ in spans]
        needed = max(min(end, size) - start for start, (_, end) in zip(starts, spans, strict=True))
        side = min(size, -(-max(needed, size // LEAST_SHARE) // multiple) * multiple)
        centred = [round(((start + end) / 2 - side / 2) / multiple) * multiple for start, end in spans]
        row, column = (
            int(np.clip(place, -(-max(0, min(end, size) - side) // multiple) * multiple, min(start, size - side)))
            for place, start, (_, end) in zip(centred, starts, spans, strict=True)
        )
        return cls(row, column, side)

    def cut(self, images: Array) -> Array:
        """The part of (…, H, W) in the box."""
        return images[..., self.row : self.row + self.side, self.column : self.column + self.side]

    def outside(self, size: int) -> Array:
        """(H, W) 1 outside of the box."""
        places = np.ones((size, size), np.float32)
        self.cut(places)[...] = 0
        return places


def box_multiple(denoiser: Architecture, regressor: Architecture) -> int | None:
    """What edges of boxes are multiples of, so that they lie between the pixels of every map of both networks.

    None where an image is too small for boxes. The regressor is the dense one: the other looks at whole slices.
    """
    multiple = max(LEAST_MULTIPLE, *(2 ** (len(network.channel_mult) - 1) for network in (denoiser, regressor)))
    return multiple if denoiser.image_size >= LEAST_SIDES * multiple else None


@dataclass(frozen=True)
class _EncodedLevel:
    """The encodings of one side of box at one noise level. size: (N,) R in the box."""

    path: EncodedPath
    size: Array


def sample_in_boxes(
    engine: BoxEngine,
    encodings: Encodings,
    members: MemberTargets,
    settings: SamplerSettings,
    *,
    multiple: int,
    batch: int,
) -> Array:
    """(M, C, H, W) follow-ups, in [-1, 1]: outside of the box they are the slice itself, to the bit.

    All members of a slice have one box; boxes of one side share batches. multiple: what edges of boxes are multiples
    of. batch: images that go through a network together.
    """
    windows = {
        number: members.window[encodings.slice_number[members.encoding] == number]
        for number in {*encodings.slice_number}
    }
    of_slice = {number: SliceBox.round(window, multiple) for number, window in windows.items()}
    boxes = [of_slice[number] for number in encodings.slice_number]
    images, plan = encodings.image[members.encoding].copy(), plan_boxes(settings)
    for side in sorted({box.side for box in boxes}):
        rows = np.flatnonzero([box.side == side for box in boxes])
        levels = _encode(engine, encodings[rows], [boxes[row] for row in rows], plan, batch=batch)
        mine = np.flatnonzero(np.isin(members.encoding, rows))
        for block in blocks(len(mine), batch):
            numbers = mine[block]
            own = members.encoding[numbers]
            around, whole = [boxes[row] for row in own], encodings.brain[own]
            brain, window = _cut(around, whole), _cut(around, members.window[numbers])
            share = brain.sum(axis=(1, 2)) / np.maximum(whole.sum(axis=(1, 2)), 1)
            change = members.target_change[numbers] / np.maximum(share, LEAST_BRAIN)
            starts, passed = np.searchsorted(rows, own), [levels[step.t] for step in plan.decode]
            targets = np.stack([level.size[starts] + change for level in passed]).astype(np.float32)
            guidance = BoxGuidance(targets[0], brain, window, settings.gain)
            paths = [level.path for level in passed]
            departures = engine.decode_in_box(plan.decode, paths, starts, guidance, targets)
            for number, box, departure in zip(numbers, around, departures, strict=True):
                box.cut(images[number])[...] += departure
    return np.asarray(np.clip(images, -1.0, 1.0))


def _encode(
    engine: BoxEngine, encodings: Encodings, boxes: list[SliceBox], plan: BoxPlan, *, batch: int
) -> dict[int, _EncodedLevel]:
    """What the encodings are in their boxes, by the time of the level."""
    size = encodings.image.shape[-1]
    found: dict[int, list[_EncodedLevel]] = {}
    for rows in blocks(len(boxes), batch):
        part, around = encodings[rows], boxes[rows]
        outside = np.stack([box.outside(size) for box in around])
        brain = _cut(around, part.brain)
        x = start_of(part)
        x, eps = engine.encode_step(x, plan.encode[0], np.zeros_like(x))
        for step in plan.encode[1:]:
            inside = _cut(around, x)
            x, eps, norms = engine.survey(x, step, eps, outside)
            nothing = np.zeros_like(inside)
            unled = BoxGuidance(np.zeros(len(inside), np.float32), brain, brain, gain=0.0)
            still = BoxStep(step.t, step.abar, 0.0)
            _, noise, sizes = engine.box_step(nothing, still, nothing, EncodedPath(inside, nothing, norms), unled)
            found.setdefault(step.t, []).append(_EncodedLevel(EncodedPath(inside, noise, norms), sizes))
    return {t: _joined(parts) for t, parts in found.items()}


def _cut(boxes: list[SliceBox], images: Array) -> Array:
    return np.stack([box.cut(image) for box, image in zip(boxes, images, strict=True)])


def _joined(parts: list[_EncodedLevel]) -> _EncodedLevel:
    x, eps, outside = (
        np.concatenate(arrays) for arrays in zip(*((p.path.x, p.path.eps, p.path.outside) for p in parts), strict=True)
    )
    return _EncodedLevel(EncodedPath(x, eps, outside), np.concatenate([part.size for part in parts]))
