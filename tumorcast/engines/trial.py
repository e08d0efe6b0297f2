"""One of each of an engine's answers on a phantom: whether a device computes at all, and how fast."""

import time

import numpy as np

from tumorcast.arrival.field import VolumeNetwork
from tumorcast.diffusion.box import BoxGuidance, EncodedPath
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step, alpha_bars
from tumorcast.engines import parity
from tumorcast.engines.protocol import Engine, VolumeEngine
from tumorcast.errors import EngineError
from tumorcast.settings import NetworkKind

TIME = 199  # of the steps


def try_out(engine: Engine) -> None:
    """Have an engine answer all that it is asked for in a forecast. Raises EngineError if it cannot."""
    info = engine.info
    part = parity.phantom(len(info.contrasts), info.image_size)
    step = step_of(engine)
    engine.encode_step(part.images, step, np.zeros_like(part.images))
    guided_step(engine, len(part.images))
    sizes = engine.sizes(part.images, step.t, part.brains)
    answers = [sizes, engine.segment(part.images)]
    if info.box_multiple is not None:
        answers.append(_in_box(engine, part))
    if info.progression is NetworkKind.SLICE_PROGRESSION:
        answers.append(engine.predict_progression(part.images, part.outlines, np.zeros(len(sizes), np.float32)))
    _check_numbers(engine.device, answers)


def _in_box(engine: Engine, part: parity.Inputs) -> Array:
    """A departure in a box that is the whole phantom."""
    step, planes = step_of(engine), np.zeros_like(part.brains)
    nothing = np.zeros_like(part.images)
    _, eps, norms = engine.survey(part.images, step, nothing, planes)
    guidance = BoxGuidance(np.full(len(eps), 0.1, np.float32), part.brains, part.brains, gain=0.5)
    path = EncodedPath(part.images, eps, norms)
    departure, *_ = engine.box_step(nothing, BoxStep(step.t, step.abar, -0.1), nothing, path, guidance)
    return departure


def try_out_volume(network: VolumeNetwork) -> None:
    """The same of the progression network on volumes."""
    volume = parity.phantom_volume(len(network.contrasts), parity.VOLUMES[0])
    _check_numbers("the progression network", [network.answer(volume)])


def _check_numbers(what: str, answers: list[Array]) -> None:
    if not all(np.isfinite(answer).all() for answer in answers):
        raise EngineError(f"{what}: computes what is no number; use another device, or --provider cpu")


def step_of(engine: Engine) -> Step:
    """A step down, at a noise level that the engine knows."""
    abar, t = alpha_bars(), min(TIME, engine.info.noise_levels - 1)
    return Step(t, abar[t], abar[max(t - parity.STRIDE, 0)])


def guided_step(engine: Engine, batch: int) -> float:
    """The seconds of a guided step of `batch` phantoms."""
    part = parity.phantom(len(engine.info.contrasts), engine.info.image_size)
    images, brains = (np.resize(rows, (batch, *rows.shape[1:])) for rows in (part.images, part.brains))
    guidance = StepGuidance(np.full(batch, 0.1, np.float32), brain=brains, window=brains, gain=0.5)
    step, nothing = step_of(engine), np.zeros_like(images)
    began = time.perf_counter()
    engine.guided_step(images, step, nothing, guidance)
    return time.perf_counter() - began


def volume_pass(network: VolumeEngine) -> float:
    """The seconds of a pass over a phantom."""
    volume = parity.phantom_volume(len(network.contrasts), parity.VOLUMES[0])
    began = time.perf_counter()
    network.answer(volume)
    return time.perf_counter() - began
