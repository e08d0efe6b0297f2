"""How the regressor steers one DDIM step (torch; N images at once).

Symbols: x = x_t (N, C, H, W), x0 = the clean image predicted from it, eps = its noise, abar = ᾱ_t,
R = R(x_t, t) (N,), g = ∇_x R (N, C, H, W), w = a window (N, 1, H, W) in [0, 1].
"""

import math
from typing import assert_never

from torch import Tensor

from tumorcast.diffusion.plan import GuidanceLaw, Normalised, Paper

TINY = 1e-20
LARGEST_SHIFT = 1.0  # half of the range of intensities: where R is flat, its linearisation means nothing further out


def predict(x: Tensor, eps: Tensor, abar: float) -> Tensor:
    """x0 of x and its noise (Song et al. 2021, eq. 12)."""
    return (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)


def noise_of(x: Tensor, x0: Tensor, abar: float) -> Tensor:
    """The noise that takes x0 to x; the inverse of `predict`."""
    return (x - math.sqrt(abar) * x0) / math.sqrt(1 - abar)


def move(x0: Tensor, eps: Tensor, abar: float) -> Tensor:
    """x at another noise level, with σ = 0 (Song et al. 2021, eq. 12)."""
    return math.sqrt(abar) * x0 + math.sqrt(1 - abar) * eps


def steer(
    law: GuidanceLaw, x: Tensor, x0: Tensor, eps: Tensor, *, missing: Tensor, g: Tensor, w: Tensor, abar: float
) -> tuple[Tensor, Tensor]:
    """(x0, eps) after guidance; missing (N,) is target - R.

    The paper's law changes ε and derives x0 from it: the two changes nearly cancel in a short step, so the effect of a
    given s_R depends on the step and on ᾱ. The normalised law moves x0 alone, by the least change of x (weighted by
    the window) that moves R by gain·missing to first order, and no pixel by more than LARGEST_SHIFT.
    """
    missing = missing[:, None, None, None]
    match law:
        case Paper(scale):
            eps = eps - math.sqrt(1 - abar) * scale * missing * g
            return predict(x, eps, abar), eps
        case Normalised(gain):
            steepness = (w * g * g).sum(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
            shift = gain * missing * w * g / steepness / math.sqrt(abar)
            largest = shift.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=TINY)
            return x0 + shift * (LARGEST_SHIFT / largest).clamp(max=1.0), eps
        case _:
            assert_never(law)
