"""Parity of engines: the largest differences from the torch reference.

Networks of images are compared over noise levels, on slices and on noise; one on volumes on phantoms of two sizes.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tumorcast.arrival.planes import planes_of
from tumorcast.diffusion.box import BoxGuidance, EncodedPath, SliceBox
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step, alpha_bars
from tumorcast.engines.bundle import TensorParity
from tumorcast.engines.protocol import Engine, VolumeEngine
from tumorcast.errors import EngineError
from tumorcast.settings import CheckDepth, NetworkKind, Precision

# The share of a tensor's largest value by which it may be off. Half precision touches the denoiser alone, so the sizes,
# the segmenter and the progression network are held to float32 in any bundle.
DENOISED = {Precision.FP32: 5e-5, Precision.FP16: 1e-2, Precision.BF16: 6e-2}
LIMITS = {
    "size.size": 5e-5,
    "box.size": 5e-5,
    "segment.probability": 1e-4,
    "progress.probability": 1e-4,
    "progress.answer": 1e-4,
}
# bfloat16 rounds x by 2⁻⁹ to 2⁻⁸, at t = 0 a third of the noise in it: there ε is known to tenths (measured .18). fp16
# has three binary digits more (measured .016). It enters x by √(1 - ᾱ) = .01, and x is held to the limit above.
HALF_NOISE = {Precision.FP16: 0.3 / 8, Precision.BF16: 0.3}
LEAST_SCALES = {
    "size.size": 0.01,
    "box.size": 0.01,
}  # no tensor counts as smaller: sizes are fractions, all others are of order one
BOXED = 2.0
TIMES = 12
STRIDE = 8  # of the steps that are compared
VOLUMES = ((48, 64, 64), (64, 80, 72))  # z, y, x, on which networks on volumes are compared
LARGEST_ASKED = 2.0  # ln of a ratio of areas; the progression network clamps it somewhat below
STRENGTHS = ((0.5, 0.0), (0.0, 50_000.0))  # (gain, scale) of the guidance laws


@dataclass(frozen=True)
class Inputs:
    """Clean slices (N, C, H, W), to be noised for each time, and their brains and outlines of tumour (N, H, W)."""

    name: str
    images: Array
    brains: Array
    outlines: Array

    @property
    def first(self) -> "Inputs":
        """The first slice alone."""
        return Inputs(f"first {self.name}", self.images[:1], self.brains[:1], self.outlines[:1])

    @property
    def sha256(self) -> str:
        """A sum over all of it."""
        parts = (self.images, self.brains, self.outlines)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


class Comparisons:
    """The differences of each comparison by its name; here they last as long as the object does."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, float]] = {}

    def keep(self, name: str, differences: dict[str, float]) -> None:
        """Keep those of one comparison."""
        self.known[name] = differences


def phantom(channels: int, side: int) -> Inputs:
    """Round brains with round bright tumours: what there is where no cohort is given."""
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    brain = np.hypot(rows, columns) < 0.4
    ripple = 0.2 * np.sin(20 * rows) * np.cos(15 * columns)
    tumours = np.stack([np.hypot(rows, columns - 0.15) < radius for radius in (0.06, 0.15)])
    images = np.where(tumours, 0.8, np.where(brain, ripple, -1.0))
    stack = np.repeat(images[:, None], channels, axis=1).astype(np.float32)
    brains = np.repeat(brain[None], len(tumours), axis=0).astype(np.float32)
    return Inputs("phantom", stack, brains, tumours.astype(np.float32))


def noise(channels: int, side: int) -> Inputs:
    """Standard normal images, brain everywhere, and outlines without form."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, channels, side, side), np.float32)
    return Inputs("random", images, np.ones((2, side, side), np.float32), rng.random((2, side, side), np.float32))


def compare(
    engine: Engine,
    reference: Engine,
    precision: Precision,
    inputs: list[Inputs],
    report: Callable[[int, int], None] = lambda done, total: None,
    *,
    depth: CheckDepth = CheckDepth.FULL,
    comparisons: Comparisons | None = None,
) -> dict[str, TensorParity]:
    """The largest difference of each output, relative to its largest value, over inputs and times.

    comparisons: those that are known already, by input and time; each one made is kept there.
    """
    comparisons = comparisons or Comparisons()
    worst: dict[str, TensorParity] = {}
    pairs = _pairs(inputs, reference.info.noise_levels, depth)
    for done, (part, t) in enumerate(pairs):
        report(done, len(pairs))
        where = f"{part.name} at t = {t}"
        key = f"{where}: {part.sha256[:16]}"
        if key not in comparisons.known:
            comparisons.keep(key, _differences(engine, reference, part, t))
        for name, difference in comparisons.known[key].items():
            if name not in worst or difference > worst[name].difference:
                worst[name] = TensorParity(difference=difference, limit=limit_of(name, precision), where=where)
    report(len(pairs), len(pairs))
    return worst


def _pairs(inputs: list[Inputs], noise_levels: int, depth: CheckDepth) -> list[tuple[Inputs, int]]:
    """What is compared, and at which times."""
    times = np.unique(np.geomspace(1, noise_levels, TIMES).round().astype(int)) - 1
    if depth is CheckDepth.QUICK:
        return [(inputs[0].first, int(t)) for t in (times[0], times[-1])]
    return [(part, int(t)) for part in inputs for t in times]


def _differences(engine: Engine, reference: Engine, part: Inputs, t: int) -> dict[str, float]:
    """The largest difference of each output at one time, relative to its largest value; inf for what is no number."""
    worst: dict[str, float] = {}
    for name, output, expected in _outputs(engine, reference, part, t):
        scale = max(float(np.abs(expected).max()), LEAST_SCALES.get(name, 1.0))
        difference = float(np.abs(output - expected).max() / scale)
        worst[name] = max(worst.get(name, 0.0), difference if math.isfinite(difference) else math.inf)
    return worst


def limit_of(name: str, precision: Precision) -> float:
    """What "graph.output" may be off by.

    >>> limit_of("size.size", Precision.BF16), limit_of("encode.x_next", Precision.FP16)
    (5e-05, 0.01)
    """
    if precision in HALF_NOISE and name.endswith((".eps", ".change")):
        return HALF_NOISE[precision]
    if name == "box.departure_next":  # x before it is scaled by √ᾱ, with the shift of the guidance in it
        return BOXED * DENOISED[precision]
    return LIMITS.get(name, DENOISED[precision])


def _outputs(engine: Engine, reference: Engine, part: Inputs, t: int) -> Iterator[tuple[str, Array, Array]]:
    """(name, output, expected) of every output for one input at one time."""
    abar = alpha_bars()
    rng = np.random.default_rng(t)
    eps = rng.standard_normal(part.images.shape, np.float32)
    x = (np.sqrt(abar[t]) * part.images + np.sqrt(1 - abar[t]) * eps).astype(np.float32)
    window = rng.random(part.brains.shape, np.float32)
    up, down = min(t + STRIDE, len(abar) - 1), max(t - STRIDE, 0)
    sizes = reference.sizes(x, t, part.brains)
    yield "size.size", engine.sizes(x, t, part.brains), sizes
    step = Step(t, abar[t], abar[up], blend=0.5, clip=False)
    answers = [other.encode_step(x, step, eps) for other in (engine, reference)]
    yield from zip(("encode.x_next", "encode.eps"), *answers, strict=True)
    step = Step(t, abar[t], abar[down] if t else 1.0, blend=0.5)
    target = (sizes + np.float32(0.05)).astype(np.float32)
    for gain, scale in STRENGTHS:
        guidance = StepGuidance(target, part.brains, window, gain, scale)
        answers = [other.guided_step(x, step, eps, guidance) for other in (engine, reference)]
        yield from zip(("guided.x_next", "guided.eps"), *answers, strict=True)
    if None not in (engine.info.box_multiple, reference.info.box_multiple):
        yield from _outputs_in_box(engine, reference, part, x, t)
    yield "segment.probability", engine.segment(part.images), reference.segment(part.images)
    if reference.info.progression is NetworkKind.SLICE_PROGRESSION:
        questions = (part.images, part.outlines, rng.uniform(-LARGEST_ASKED, LARGEST_ASKED, len(x)).astype(np.float32))
        yield "progress.probability", engine.predict_progression(*questions), reference.predict_progression(*questions)


def _outputs_in_box(
    engine: Engine, reference: Engine, part: Inputs, x: Array, t: int
) -> Iterator[tuple[str, Array, Array]]:
    """The same of what is computed in boxes, of the least side: the graph takes the path that the reference made."""
    abar, rng = alpha_bars(), np.random.default_rng(t)
    assert reference.info.box_multiple is not None
    side = max(2, x.shape[-1] // reference.info.box_multiple // 2) * reference.info.box_multiple
    box = SliceBox(x.shape[-1] - side, 0, side)
    outside = np.repeat(box.outside(x.shape[-1])[None], len(x), axis=0)
    up = min(t + STRIDE, len(abar) - 1)
    eps = rng.standard_normal(x.shape, np.float32)
    step = Step(t, abar[t], abar[up], blend=0.5, clip=False)
    answers = [other.survey(x, step, eps, outside) for other in (engine, reference)]
    yield from zip(("survey.x_next", "survey.eps", "survey.norms"), *answers, strict=True)
    path = EncodedPath(box.cut(x), box.cut(answers[1][1]), answers[1][2])
    departure, last = (0.1 * rng.standard_normal(path.x.shape, np.float32) for _ in range(2))
    brain, window = box.cut(part.brains), rng.random(path.x[:, 0].shape, np.float32)
    down = BoxStep(t, abar[t], -0.05, 0.5)
    unled = BoxGuidance(np.zeros(len(x), np.float32), brain, window, gain=0.0)
    *_, sizes = reference.box_step(departure, down, last, path, unled)
    guidance = replace(unled, target=np.asarray(sizes + 0.05, np.float32), gain=STRENGTHS[0][0])
    answers = [other.box_step(departure, down, last, path, guidance) for other in (engine, reference)]
    yield from zip(("box.departure_next", "box.change", "box.size"), *answers, strict=True)


def phantom_volume(contrasts: int, sides: tuple[int, int, int]) -> Array:
    """(P, Z, Y, X) a ball of tumour in a rippled brain: contrasts, outline, distance, and the front of a ball."""
    places = (np.arange(side, dtype=np.float32) / side - 0.5 for side in sides)
    z, y, x = np.meshgrid(*places, indexing="ij")
    radius, tumour = np.sqrt(z**2 + y**2 + (x - 0.1) ** 2), 0.15
    ripple = 0.3 * np.sin(20 * y) * np.cos(15 * x) + 0.2 * np.sin(12 * z)
    image = np.where(radius < tumour, 0.8, np.where(z**2 + y**2 + x**2 < 0.16, ripple, -1.0)).astype(np.float32)
    distance, front = 100 * (radius - tumour), 3 * np.log(np.maximum(radius, 0.01) / tumour)
    images = np.stack([np.roll(image, shift, axis=2) for shift in range(contrasts)])
    return planes_of(images, radius < tumour, np.asarray(distance, np.float32), np.asarray(front, np.float32))


def compare_volumes(
    network: VolumeEngine, reference: VolumeEngine, report: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, TensorParity]:
    """As `compare`, of the progression network on volumes; each of its two numbers by its own largest value."""
    name, found = "progress.answer", []
    for done, sides in enumerate(VOLUMES):
        report(done + 1, len(VOLUMES))
        volume = phantom_volume(len(reference.contrasts), sides)
        for output, expected in zip(network.answer(volume), reference.answer(volume), strict=True):
            difference = float(np.abs(output - expected).max() / max(float(np.abs(expected).max()), 1.0))
            where = f"phantom of {' x '.join(map(str, sides))}"
            found.append((difference if math.isfinite(difference) else math.inf, where))
    difference, where = max(found)
    return {name: TensorParity(difference=difference, limit=LIMITS[name], where=where)}


def check(parity: dict[str, TensorParity], what: str) -> None:
    """Raises EngineError if a difference is beyond its limit, naming the worst tensor."""
    name, worst = max(parity.items(), key=lambda item: item[1].difference / item[1].limit)
    if worst.difference > worst.limit:
        raise EngineError(
            f"{what}: does not match the torch reference: {name} is off by {worst.difference:.2g} of its largest value "
            f"({worst.where}), {worst.limit:.2g} is allowed; it was not written or must not be used: try "
            "--precision fp32, other versions of torch and onnxruntime, or report it"
        )
