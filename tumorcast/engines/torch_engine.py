"""The reference engine: the networks in torch, the regressor's gradient by autograd."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tumorcast.diffusion.guidance import move, noise_of, predict, steer
from tumorcast.diffusion.plan import GuidanceLaw, Step
from tumorcast.diffusion.regressors import DenseRegressor, SizeRegressor
from tumorcast.diffusion.unet import UNet
from tumorcast.engines.model import ModelSet
from tumorcast.errors import EngineError

Array = npt.NDArray[np.float32]
TUMOUR_CLASS = 1


def open_device(name: str) -> torch.device:
    """The device of this name. Raises EngineError if torch has none such here."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, ValueError) as fault:
        reason = str(fault).splitlines()[0]
        raise EngineError(
            f"device {name}: not available ({reason}); use --device cpu, or install a torch for it"
        ) from None


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


class TorchEngine:
    """Encode, guide and segment with networks held on one device."""

    def __init__(
        self, denoiser: UNet, regressor: SizeRegressor, segmenter: DenseRegressor, device: str = "cpu"
    ) -> None:
        self.device = open_device(device)
        self.denoiser = denoiser.to(self.device)
        self.regressor = regressor.to(self.device)
        self.segmenter = segmenter.to(self.device)

    @classmethod
    def of(cls, model: ModelSet, device: str = "cpu") -> Self:
        """The engine of a loaded model set."""
        return cls(model.denoiser, model.regressor, model.segmenter, device)

    @flushed_denormals()
    @torch.no_grad()
    def encode_step(self, x: Array, step: Step, *, clamp: bool) -> Array:
        """(N, C, H, W) at the next, higher noise level, unguided."""
        x0, eps = self._denoise(self._put(x), step, clamp=clamp)
        return move(x0, eps, step.abar_next).cpu().numpy()

    @flushed_denormals()
    @torch.no_grad()
    def guided_step(
        self, x: Array, step: Step, law: GuidanceLaw, target: Array, *, brain: Array, window: Array
    ) -> Array:
        """(N, C, H, W) at the next, lower noise level; target (N,), brain and window (N, H, W)."""
        noisy = self._put(x)
        x0, eps = self._denoise(noisy, step, clamp=True)
        size, gradient = self._size_and_gradient(noisy, step.t, self._put(brain))
        missing, w = self._put(target) - size, self._put(window)[:, None]
        x0, eps = steer(law, noisy, x0, eps, missing=missing, g=gradient, w=w, abar=step.abar)
        return move(x0, eps, step.abar_next).cpu().numpy()

    @torch.no_grad()
    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """(N,) R(x, t) of the guiding regressor."""
        noisy = self._put(x)
        size: Tensor = self.regressor(noisy, self._times(noisy, t), self._put(brain))
        return size.cpu().numpy()

    @torch.no_grad()
    def segment(self, images: Array) -> Array:
        """(N, H, W) probability of tumour in clean images (N, C, H, W)."""
        clean = self._put(images)
        return torch.sigmoid(self.segmenter.logits(clean, self._times(clean, 0))).cpu().numpy()

    def _denoise(self, x: Tensor, step: Step, *, clamp: bool) -> tuple[Tensor, Tensor]:
        """(x0, eps); a clamp keeps x0 in [-1, 1] and derives eps again."""
        times = self._times(x, step.t)
        eps = self.denoiser(x, times, torch.full_like(times, TUMOUR_CLASS))[:, : x.shape[1]]
        x0 = predict(x, eps, step.abar)
        if clamp:
            x0 = x0.clamp(-1.0, 1.0)
            eps = noise_of(x, x0, step.abar)
        return x0, eps

    def _size_and_gradient(self, x: Tensor, t: int, brain: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            size: Tensor = self.regressor(x, self._times(x, t), brain)
            (gradient,) = torch.autograd.grad(size.sum(), x)
        return size.detach(), gradient

    def _times(self, x: Tensor, t: int) -> Tensor:
        return torch.full((len(x),), t, dtype=torch.long, device=self.device)

    def _put(self, values: Array) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float32)).to(self.device)  # a copy: views may be read-only
