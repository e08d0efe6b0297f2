"""An engine of torch whose faults are those of the others: EngineErrors, and smaller batches when memory runs out."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tumorcast.diffusion.box import BoxGuidance, EncodedPath
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step
from tumorcast.engines.batches import Batches, Feeds, first_line, ran_out_of_memory
from tumorcast.engines.graph_engine import box_rows
from tumorcast.engines.protocol import Engine, EngineWrapper, VolumeEngine, check_progression
from tumorcast.errors import EngineError, TumorcastError


class GuardedEngine(EngineWrapper):
    """What torch raises (a CUDA error, a lost device) comes as an EngineError; out of memory halves the batch.

    free_memory: what gives back the memory that a failed call held.
    """

    def __init__(self, engine: Engine, free_memory: Callable[[], None]) -> None:
        super().__init__(engine)
        self.batches = Batches(Batches.WITHOUT_LIMIT, engine.device, engine.info.image_size)
        self._free_memory = free_memory

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """That of the engine."""
        rows = {"x": x, "previous_eps": previous_eps}
        x_next, eps = self._run(rows, lambda block: self.engine.encode_step(step=step, **block))
        return x_next, eps

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """That of the engine."""
        rows = {"x": x, "previous_eps": previous_eps}
        rows |= {"target": guidance.target, "brain": guidance.brain, "window": guidance.window}

        def guided(block: Feeds) -> tuple[Array, Array]:
            x, eps, target, brain, window = block.values()
            part = StepGuidance(target, brain, window, guidance.gain, guidance.scale)
            return self.engine.guided_step(x, step, eps, part)

        x_next, eps = self._run(rows, guided)
        return x_next, eps

    def survey(self, x: Array, step: Step, previous_eps: Array, outside: Array) -> tuple[Array, Array, Array]:
        """That of the engine."""
        rows = {"x": x, "previous_eps": previous_eps, "outside": outside}
        x_next, eps, norms = self._run(rows, lambda block: self.engine.survey(step=step, **block))
        return x_next, eps, norms

    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]:
        """That of the engine."""

        def stepped(block: Feeds) -> tuple[Array, Array, Array]:
            departure, previous, x, eps, outside, target, brain, window = block.values()
            part = BoxGuidance(target, brain, window, guidance.gain)
            return self.engine.box_step(departure, step, previous, EncodedPath(x, eps, outside), part)

        next_one, change, size = self._run(box_rows(departure, previous, path, guidance), stepped)
        return next_one, change, size

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """That of the engine."""
        return self._run({"x": x, "brain": brain}, lambda block: [self.engine.sizes(t=t, **block)])[0]

    def segment(self, images: Array) -> Array:
        """That of the engine."""
        return self._run({"images": images}, lambda block: [self.engine.segment(**block)])[0]

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """That of the engine."""
        check_progression(self.info)
        rows = {"images": images, "outline": outline, "log_ratio": log_ratio}
        return self._run(rows, lambda block: [self.engine.predict_progression(**block)])[0]

    def _run(self, rows: Feeds, compute: Callable[[Feeds], Any]) -> list[Array]:
        def answered(block: slice) -> list[Array]:
            return list(compute({name: np.asarray(part[block], np.float32) for name, part in rows.items()}))

        return run_guarded(self.batches, len(next(iter(rows.values()))), answered, self._free_memory)


class GuardedVolume:
    """The same of the progression network on volumes, which has no batches."""

    def __init__(self, network: VolumeEngine) -> None:
        self.network = network
        self.sha256, self.contrasts, self.voxel_mm = network.sha256, network.contrasts, network.voxel_mm
        self.provider, self.device = network.provider, network.device

    def answer(self, planes: Array) -> Array:
        """That of the network."""
        try:
            return self.network.answer(planes)
        except TumorcastError:
            raise
        except Exception as fault:
            raise failed_on(self.device, fault) from fault


def run_guarded(
    batches: Batches, count: int, compute: Callable[[slice], list[Array]], free_memory: Callable[[], None]
) -> list[Array]:
    """`Batches.run` of what torch computes. Raises EngineError for what torch raises."""

    def answered(block: slice) -> list[Array]:
        try:
            return compute(block)
        except Exception as fault:
            if ran_out_of_memory(fault):
                free_memory()
            raise

    try:
        return batches.run(count, answered)
    except TumorcastError:
        raise
    except Exception as fault:
        raise failed_on(batches.device, fault) from fault


def failed_on(device: str, fault: Exception) -> EngineError:
    """What torch raised, in a message with a remedy."""
    return EngineError(
        f"torch failed on {device}: {first_line(fault)}; look at it (`nvidia-smi -q`), use another one, or --device cpu"
    )
