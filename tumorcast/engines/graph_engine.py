"""The sampler's steps and loops as calls of a bundle's graphs, whatever runs them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tumorcast.diffusion.box import BoxGuidance, EncodedPath
from tumorcast.diffusion.sampler import Array, Indices, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step
from tumorcast.engines.batches import Feeds
from tumorcast.engines.bundle import Graph
from tumorcast.engines.protocol import ModelInfo, check_progression
from tumorcast.settings import Provider

UNBOUNDED = 1e30  # a bound that holds nothing back
CARRIED = {"x_next": "x", "eps": "last"}
CARRIED_IN_BOX = {"departure_next": "departure", "change": "last"}


def _nothing(_: slice) -> Feeds:
    return {}


@dataclass(frozen=True)
class LoopStep:
    """What is new at a step: inputs without rows, and those with, of the rows that are asked for."""

    scalars: Mapping[str, float]
    rows: Callable[[slice], Feeds] = _nothing

    def feeds(self, block: slice) -> Feeds:
        """All of it as arrays, for some of the rows."""
        return self.rows(block) | {name: np.asarray(value, np.float32) for name, value in self.scalars.items()}


class HeldGraph(Protocol):
    """A graph with inputs and outputs in memory of its device."""

    def put(self, feeds: Feeds) -> None:
        """Copy inputs from the host; the others stay what they are."""

    def carry(self, carried: Mapping[str, str]) -> None:
        """Copy outputs to the inputs that they become, on the device."""

    def run(self) -> None:
        """Compute the outputs, on the device."""

    def take(self, names: tuple[str, ...]) -> list[Array]:
        """Outputs, copied to the host."""


@dataclass(frozen=True)
class GraphLoop:
    """A graph that is asked once a step, and some of whose outputs are inputs of the next.

    rows: inputs with a row an image, as they are at the first step. carried: the input that each such output becomes.
    answers: the outputs that are wanted, after the last step or `each`.
    """

    graph: Graph
    rows: Feeds
    steps: Sequence[LoopStep]
    answers: tuple[str, ...]
    carried: Mapping[str, str] = field(default_factory=dict)
    each: bool = False

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.rows.values())))

    def first(self, block: slice) -> Feeds:
        """The inputs of the first step, for some of the rows."""
        return {name: part[block] for name, part in self.rows.items()} | self.steps[0].feeds(block)

    def through(self, held: HeldGraph, block: slice, filled: Callable[[Feeds], Feeds] = dict) -> list[Array]:
        """The answers for some rows, by a graph that has the first step's inputs. filled: what it is fed of others."""
        found: list[Array] = []
        for number, step in enumerate(self.steps):
            if number:
                held.carry(self.carried)
                held.put(filled(step.feeds(block)))
            held.run()
            if self.each or number == len(self.steps) - 1:
                found += held.take(self.answers)
        return found


class GraphEngine(ABC):
    """What an engine answers, by graphs; a loop keeps what it carries on the device."""

    info: ModelInfo
    provider: Provider
    device: str

    @abstractmethod
    def run(self, loop: GraphLoop) -> list[Array]:
        """The answers of a loop, those of the first answered step first, of as many rows as the inputs have."""

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """(N, C, H, W) at the next noise level, unguided, and ε."""
        rows = {"x": x, "last": previous_eps}
        x_next, eps = self.run(GraphLoop(Graph.ENCODE, rows, [LoopStep(encode_scalars(step))], ("x_next", "eps")))
        return x_next, eps

    def encode(self, x: Array, steps: Sequence[Step]) -> list[Array]:
        """(N, C, H, W) after each of the steps."""
        rows, told = {"x": x, "last": np.zeros_like(x)}, [LoopStep(encode_scalars(step)) for step in steps]
        return self.run(GraphLoop(Graph.ENCODE, rows, told, ("x_next",), CARRIED, each=True))

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """(N, C, H, W) at the next, lower noise level, and ε."""
        rows = {"x": x, "last": previous_eps, "target": guidance.target} | maps_of(guidance)
        told = [LoopStep(guided_scalars(step, guidance))]
        x_next, eps = self.run(GraphLoop(Graph.GUIDED, rows, told, ("x_next", "eps")))
        return x_next, eps

    def decode(self, x: Array, steps: Sequence[Step], guidance: StepGuidance, targets: Array) -> Array:
        """(N, C, H, W) after the last of the steps; targets (K, N)."""
        told = [
            LoopStep(guided_scalars(step, guidance), target_rows(target))
            for step, target in zip(steps, targets, strict=True)
        ]
        rows = {"x": x, "last": np.zeros_like(x)} | maps_of(guidance)
        return self.run(GraphLoop(Graph.GUIDED, rows, told, ("x_next",), CARRIED))[0]

    def survey(self, x: Array, step: Step, previous_eps: Array, outside: Array) -> tuple[Array, Array, Array]:
        """(N, C, H, W) at the next noise level, unguided, ε, and (N, G, 2) what norms see outside of a box."""
        rows = {"x": x, "last": previous_eps, "outside": outside}
        answers = ("x_next", "eps", "norms")
        x_next, eps, norms = self.run(GraphLoop(Graph.SURVEY, rows, [LoopStep(step_scalars(step))], answers))
        return x_next, eps, norms

    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]:
        """(N, C, S, S) the next departure, ε less the path's, and (N,) R(x, t) in the box."""
        rows = box_rows(departure, previous, path, guidance)
        told = [LoopStep(box_scalars(step, guidance, box_share(departure, self.info)))]
        answers = ("departure_next", "change", "size")
        departure, change, size = self.run(GraphLoop(Graph.BOX, rows, told, answers))
        return departure, change, size

    def decode_in_box(
        self,
        steps: Sequence[BoxStep],
        levels: Sequence[EncodedPath],
        starts: Indices,
        guidance: BoxGuidance,
        targets: Array,
    ) -> Array:
        """(N, C, S, S) departures after the last of the steps; targets (K, N)."""
        nothing = np.zeros((len(starts), *levels[0].x.shape[1:]), np.float32)
        told = [
            LoopStep(box_scalars(step, guidance, box_share(nothing, self.info)), path_rows(level, starts, target))
            for step, level, target in zip(steps, levels, targets, strict=True)
        ]
        rows = {"departure": nothing, "last": nothing} | maps_of(guidance)
        return self.run(GraphLoop(Graph.BOX, rows, told, ("departure_next",), CARRIED_IN_BOX))[0]

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """(N,) R(x, t) of the guiding regressor."""
        return self.run(GraphLoop(Graph.SIZE, {"x": x, "brain": brain}, [LoopStep({"t": float(t)})], ("size",)))[0]

    def segment(self, images: Array) -> Array:
        """(N, H, W) probability of tumour in clean images (N, C, H, W)."""
        return self.run(GraphLoop(Graph.SEGMENT, {"image": images}, [LoopStep({})], ("probability",)))[0]

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """(N, H, W) probability of tumour later, of images (N, C, H, W), outline (N, H, W) and log_ratio (N,)."""
        check_progression(self.info)
        rows = {"images": images, "outline": outline, "log_ratio": log_ratio}
        return self.run(GraphLoop(Graph.PROGRESS, rows, [LoopStep({})], ("probability",)))[0]


def step_scalars(step: Step) -> dict[str, float]:
    """A step's time and blend, and its noise levels as √ᾱ and √(1 - ᾱ), in float64 until here."""
    return {
        "t": float(step.t),
        "signal": math.sqrt(step.abar),
        "noise": math.sqrt(1 - step.abar),
        "signal_next": math.sqrt(step.abar_next),
        "noise_next": math.sqrt(1 - step.abar_next),
        "blend": step.blend,
    }


def encode_scalars(step: Step) -> dict[str, float]:
    """These, and what x0 is held within."""
    return step_scalars(step) | {"bound": 1.0 if step.clip else UNBOUNDED}


def guided_scalars(step: Step, guidance: StepGuidance) -> dict[str, float]:
    """These, and how strongly the laws of guidance act."""
    return step_scalars(step) | {"gain": guidance.gain, "scale": guidance.scale}


def box_scalars(step: BoxStep, guidance: BoxGuidance, share: float) -> dict[str, float]:
    """The same of a step in a box. share: of the slice's pixels, those in the box."""
    return {
        "share": share,
        "t": float(step.t),
        "signal": math.sqrt(step.abar),
        "noise": math.sqrt(1 - step.abar),
        "length": step.length,
        "blend": step.blend,
        "gain": guidance.gain,
    }


def box_share(departure: Array, info: ModelInfo) -> float:
    """Of a slice's pixels, those in the box of a departure (N, C, S, S)."""
    return float((departure.shape[-1] / info.image_size) ** 2)


def maps_of(guidance: StepGuidance | BoxGuidance) -> Feeds:
    """What of a guidance is the same at all steps and has a row an image."""
    return {"brain": guidance.brain, "window": guidance.window}


def box_rows(departure: Array, previous: Array, path: EncodedPath, guidance: BoxGuidance) -> Feeds:
    """The inputs of the graph of boxes that have a row a member."""
    wanted = {"target": guidance.target} | maps_of(guidance)
    return {"departure": departure, "last": previous} | encoded_rows(path) | wanted


def encoded_rows(path: EncodedPath) -> Feeds:
    """Those that an encoding gives."""
    return {"path": path.x, "path_eps": path.eps, "norms": path.outside}


def target_rows(target: Array) -> Callable[[slice], Feeds]:
    """The targets of a step, of any of the rows."""
    return lambda block: {"target": target[block]}


def path_rows(level: EncodedPath, starts: Indices, target: Array) -> Callable[[slice], Feeds]:
    """The targets of a step in a box, and the encodings that its members depart from, of any of the rows."""
    return lambda block: encoded_rows(level[starts[block]]) | {"target": target[block]}
