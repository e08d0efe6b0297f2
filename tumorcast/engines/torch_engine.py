"""The networks in torch: the reference engine, with the regressor's gradient by autograd."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from tumorcast.diffusion.box import BoxGuidance, EncodedPath
from tumorcast.diffusion.host_loops import HostLoops
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step
from tumorcast.engines.batches import Feeds
from tumorcast.engines.bundle import Graph
from tumorcast.engines.graph_engine import box_rows, box_scalars, box_share, step_scalars
from tumorcast.engines.graphs import TUMOUR_CLASS, graph_modules
from tumorcast.engines.model import ModelSet
from tumorcast.engines.protocol import check_progression
from tumorcast.engines.weights import network_sum
from tumorcast.errors import EngineError
from tumorcast.kernels.guided_step import Level, Strength, extrapolate, move, noise_of, predict, steer
from tumorcast.settings import Provider
from tumorcast.training.networks import TrainedNetwork


def open_device(name: str) -> torch.device:
    """The device of this name. Raises EngineError if torch has none such here."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, ValueError) as fault:
        reason = str(fault).splitlines()[0]
        raise EngineError(
            f"device {name}: not available ({reason}); use --device cpu, or a machine and a torch that have it"
        ) from None


def free_memory() -> None:
    """Give back what torch keeps of a GPU's memory for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers count as zero: gradients far from the tumour are such, and many times slower.

    Only while a step runs, for it is a state of the processor that other libraries rely on.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def whole_float32() -> Iterator[None]:
    """Convolutions on a GPU keep all digits: cuDNN may round to the 10 bits of TF32, and would by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


class TorchEngine(HostLoops):
    """Encode, guide, segment and predict progression with networks held on one device."""

    provider = Provider.TORCH

    def __init__(self, model: ModelSet, device: str = "cpu") -> None:
        self.info = model.info
        self._device = open_device(device)
        self.device = str(self._device)
        self.denoiser = model.denoiser.to(self._device)
        self.regressor = model.regressor.to(self._device)
        self.segmenter = model.segmenter.to(self._device)
        self.progression = None if model.progression is None else model.progression.to(self._device)
        self._modules = graph_modules(model)  # of these networks; those for boxes have no other form here

    @flushed_denormals()
    @whole_float32()
    @torch.no_grad()
    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """(N, C, H, W) at the next noise level, unguided, and ε."""
        noisy = self._put(x)
        x0, eps = self._denoise(noisy, step, clip=step.clip)
        x0, blended = self._blended(noisy, step, x0, eps, previous_eps)
        return move(x0, blended, level_of(step.abar_next)).cpu().numpy(), eps.cpu().numpy()

    @flushed_denormals()
    @whole_float32()
    @torch.no_grad()
    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        """(N, C, H, W) at the next, lower noise level, and ε."""
        noisy = self._put(x)
        x0, eps = self._denoise(noisy, step, clip=True)
        size, gradient = self._size_and_gradient(noisy, step.t, self._put(guidance.brain))
        x0, steered = steer(
            *self._blended(noisy, step, x0, eps, previous_eps),
            missing=self._put(guidance.target) - size,
            gradient=gradient,
            window=self._put(guidance.window)[:, None],
            level=level_of(step.abar),
            strength=Strength(guidance.gain, guidance.scale),
        )
        return move(x0, steered, level_of(step.abar_next)).cpu().numpy(), eps.cpu().numpy()

    @flushed_denormals()
    @whole_float32()
    @torch.no_grad()
    def survey(self, x: Array, step: Step, previous_eps: Array, outside: Array) -> tuple[Array, Array, Array]:
        """(N, C, H, W) at the next noise level, unguided, ε, and (N, G, 2) what norms see outside of a box."""
        rows = {"x": x, "last": previous_eps, "outside": outside}
        x_next, eps, norms = answers_of(self._modules[Graph.SURVEY], rows, step_scalars(step), self._device)
        return x_next, eps, norms

    @flushed_denormals()
    @whole_float32()
    @torch.no_grad()
    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]:
        """(N, C, S, S) the next departure, ε less the path's, and (N,) R(x, t) in the box."""
        rows = box_rows(departure, previous, path, guidance)
        scalars = box_scalars(step, guidance, box_share(departure, self.info))
        departure, change, size = answers_of(self._modules[Graph.BOX], rows, scalars, self._device)
        return departure, change, size

    @whole_float32()
    @torch.no_grad()
    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """(N,) R(x, t) of the guiding regressor."""
        noisy = self._put(x)
        size: Tensor = self.regressor(noisy, self._times(noisy, t), self._put(brain))
        return size.cpu().numpy()

    @whole_float32()
    @torch.no_grad()
    def segment(self, images: Array) -> Array:
        """(N, H, W) probability of tumour in clean images (N, C, H, W)."""
        clean = self._put(images)
        return torch.sigmoid(self.segmenter.logits(clean, self._times(clean, 0))).cpu().numpy()

    @whole_float32()
    @torch.no_grad()
    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """(N, H, W) probability of tumour later, of images (N, C, H, W), outline (N, H, W) and log_ratio (N,)."""
        check_progression(self.info)
        assert self.progression is not None
        logits: Tensor = self.progression(self._put(images), self._put(outline), self._put(log_ratio))
        return torch.sigmoid(logits).cpu().numpy()

    def _denoise(self, x: Tensor, step: Step, *, clip: bool) -> tuple[Tensor, Tensor]:
        """(x0, eps); clipping keeps x0 in [-1, 1] and derives eps again."""
        times, level = self._times(x, step.t), level_of(step.abar)
        eps = self.denoiser(x, times, torch.full_like(times, TUMOUR_CLASS))[:, : x.shape[1]]
        x0 = predict(x, eps, level)
        if clip:
            x0 = x0.clamp(-1.0, 1.0)
            eps = noise_of(x, x0, level)
        return x0, eps

    def _blended(self, x: Tensor, step: Step, x0: Tensor, eps: Tensor, previous: Array) -> tuple[Tensor, Tensor]:
        if step.blend == 0:
            return x0, eps
        return extrapolate(x, eps, self._put(previous), step.blend, level_of(step.abar))

    def _size_and_gradient(self, x: Tensor, t: int, brain: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            size: Tensor = self.regressor(x, self._times(x, t), brain)
            (gradient,) = torch.autograd.grad(size.sum(), x)
        return size.detach(), gradient

    def _times(self, x: Tensor, t: int) -> Tensor:
        return torch.full((len(x),), t, dtype=torch.long, device=self._device)

    def _put(self, values: Array) -> Tensor:
        return tensor_of(values, self._device)


class TorchVolume:
    """The progression network on volumes, on one device: the reference."""

    provider = Provider.TORCH

    def __init__(self, network: TrainedNetwork, device: str = "cpu") -> None:
        self.contrasts, self.voxel_mm = network.info.contrasts, network.info.volume.voxel_mm
        weights = {name: value.cpu().numpy() for name, value in network.module.state_dict().items()}
        self.sha256 = network_sum(network.info, weights)
        self._device = open_device(device)
        self.device = str(self._device)
        self._module = network.module.to(self._device)

    @whole_float32()
    @torch.no_grad()
    def answer(self, planes: Array) -> Array:
        """(2, Z, Y, X) of planes (P, Z, Y, X), see tumorcast.arrival.network."""
        answer: Tensor = self._module(tensor_of(planes[None], self._device))
        return answer[0].cpu().numpy()


def level_of(abar: float) -> Level:
    """The level of ᾱ, in float64."""
    return Level(math.sqrt(abar), math.sqrt(1 - abar))


def answers_of(module: nn.Module, rows: Feeds, scalars: dict[str, float], device: torch.device) -> list[Array]:
    """The outputs of a module that is exported."""
    tensors = {name: tensor_of(part, device) for name, part in rows.items()}
    tensors |= {name: torch.tensor(value, dtype=torch.float32) for name, value in scalars.items()}
    outputs = module(**tensors)
    return [part.cpu().numpy() for part in (outputs if isinstance(outputs, tuple) else (outputs,))]


def tensor_of(values: Array, device: torch.device) -> Tensor:
    """The values on the device: a copy, since views may be read-only."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(device)
