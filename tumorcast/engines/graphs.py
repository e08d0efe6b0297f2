"""The torch modules that are exported, of plain operations: steps up and down, size, segmenter, both progressions.

The names of the arguments and of OUTPUTS are those of the ONNX graphs. A noise level comes as √ᾱ ("signal") and
√(1 - ᾱ) ("noise"), scalars computed in float64 on the host.
"""

import copy
from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor, nn

from tumorcast.diffusion.progression import ProgressionNetwork, planes_of
from tumorcast.diffusion.pullback import InBox, OutsideOfBox, size_and_gradient, size_before_gradient, through_unet
from tumorcast.diffusion.regressors import DenseRegressor, SizeRegressor
from tumorcast.diffusion.unet import UNet
from tumorcast.engines.bundle import Graph
from tumorcast.engines.model import ModelSet
from tumorcast.kernels.guided_step import (
    Level,
    Normalise,
    Strength,
    extrapolate,
    group_norm,
    move,
    noise_of,
    normalised_shift,
    predict,
    steer,
)
from tumorcast.settings import Precision

TUMOUR_CLASS = 1


def lower(model: ModelSet, precision: Precision) -> ModelSet:
    """The model with a denoiser whose convolutions and attention are in `precision`.

    Its norms, softmax and embeddings stay in float32, and so do the other networks.
    """
    match precision:
        case Precision.FP32:
            return model
        case Precision.FP16:
            dtype = torch.float16
        case Precision.BF16:
            dtype = torch.bfloat16
        case _:
            assert_never(precision)
    denoiser = copy.deepcopy(model.denoiser)
    for module in denoiser.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d):
            module.to(dtype)
    return replace(model, denoiser=denoiser)


def noise_in(denoiser: UNet, x: Tensor, t: Tensor, normalise: Normalise = group_norm) -> Tensor:
    """ε that the denoiser sees in x at time t."""
    times = t.expand(x.shape[0])
    classes = torch.full_like(times, TUMOUR_CLASS, dtype=torch.long)
    answer, _ = through_unet(denoiser, x.to(denoiser.dtype), times, classes, normalise)
    return answer[:, : x.shape[1]].to(x.dtype)


def clean_and_noise(
    denoiser: UNet, x: Tensor, t: Tensor, level: Level, bound: Tensor | float, normalise: Normalise = group_norm
) -> tuple[Tensor, Tensor]:
    """The clean image that the denoiser sees in x at time t, held within ±bound, and the noise that fits it."""
    x0 = predict(x, noise_in(denoiser, x, t, normalise), level)
    bound = bound if isinstance(bound, Tensor) else x0.new_full((), bound)
    x0 = torch.maximum(torch.minimum(x0, bound), -bound)
    return x0, noise_of(x, x0, level)


class EncodeGraph(nn.Module):
    """One unguided step to another noise level (Song et al. 2021, eq. 12)."""

    OUTPUTS = ("x_next", "eps")

    def __init__(self, denoiser: UNet, normalise: Normalise = group_norm) -> None:
        super().__init__()
        self.denoiser, self.normalise = denoiser, normalise

    def forward(
        self,
        x: Tensor,
        last: Tensor,
        t: Tensor,
        signal: Tensor,
        noise: Tensor,
        signal_next: Tensor,
        noise_next: Tensor,
        blend: Tensor,
        bound: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """x (N, C, H, W) to the next level, and its noise ε; `last` is that of the step before. Others are scalars."""
        level = Level(signal, noise)
        _, eps = clean_and_noise(self.denoiser, x, t, level, bound, self.normalise)
        return move(*extrapolate(x, eps, last, blend, level), Level(signal_next, noise_next)), eps


class GuidedGraph(nn.Module):
    """One step down under both guidance laws, of which either strength may be zero; the gradient is inside."""

    OUTPUTS = ("x_next", "eps", "size")

    def __init__(self, denoiser: UNet, regressor: SizeRegressor, normalise: Normalise = group_norm) -> None:
        super().__init__()
        self.denoiser, self.regressor, self.normalise = denoiser, regressor, normalise

    def forward(
        self,
        x: Tensor,
        last: Tensor,
        target: Tensor,
        brain: Tensor,
        window: Tensor,
        t: Tensor,
        signal: Tensor,
        noise: Tensor,
        signal_next: Tensor,
        noise_next: Tensor,
        blend: Tensor,
        gain: Tensor,
        scale: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, C, H, W) to the next level, its noise ε before guidance, and R(x, t) (N,).

        last: ε of the step before. target: (N,). brain, window: (N, H, W). Others are scalars.
        """
        level = Level(signal, noise)
        _, eps = clean_and_noise(self.denoiser, x, t, level, 1.0, self.normalise)
        size, gradient = size_and_gradient(self.regressor, x, t.expand(x.shape[0]), brain)
        x0, steered = steer(
            *extrapolate(x, eps, last, blend, level),
            missing=target - size,
            gradient=gradient,
            window=window[:, None],
            level=level,
            strength=Strength(gain, scale),
        )
        return move(x0, steered, Level(signal_next, noise_next)), eps, size


class SurveyGraph(nn.Module):
    """EncodeGraph without a bound, and what the norms of denoiser and regressor see outside of a box."""

    OUTPUTS = ("x_next", "eps", "norms")

    def __init__(self, denoiser: UNet, regressor: DenseRegressor) -> None:
        super().__init__()
        self.denoiser, self.regressor = denoiser, regressor

    def forward(
        self,
        x: Tensor,
        last: Tensor,
        outside: Tensor,
        t: Tensor,
        signal: Tensor,
        noise: Tensor,
        signal_next: Tensor,
        noise_next: Tensor,
        blend: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As EncodeGraph; outside (N, H, W), 1 outside of the box. norms: (N, G, 2), the denoiser's first."""
        level, norms = Level(signal, noise), OutsideOfBox(outside)
        eps = noise_in(self.denoiser, x, t, norms)
        through_unet(self.regressor, x, t.expand(x.shape[0]), None, norms)
        x_next = move(*extrapolate(x, eps, last, blend, level), Level(signal_next, noise_next))
        return x_next, eps, torch.cat(norms.kept, dim=1)


class BoxGraph(nn.Module):
    """One step of a departure from an encoding, in a box, under the normalised guidance."""

    OUTPUTS = ("departure_next", "change", "size")

    def __init__(self, denoiser: UNet, regressor: DenseRegressor) -> None:
        super().__init__()
        self.denoiser, self.regressor = denoiser, regressor
        norms = [module for network in (denoiser, regressor) for module in network.modules()]
        self.groups = sum(norm.num_groups for norm in norms if isinstance(norm, nn.GroupNorm))

    def forward(
        self,
        departure: Tensor,
        last: Tensor,
        path: Tensor,
        path_eps: Tensor,
        norms: Tensor,
        target: Tensor,
        brain: Tensor,
        window: Tensor,
        share: Tensor,
        t: Tensor,
        signal: Tensor,
        noise: Tensor,
        length: Tensor,
        blend: Tensor,
        gain: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next departure (N, C, S, S), ε less the encoding's, and R in the box (N,); see tumorcast.diffusion.box.

        last: ε less the encoding's in the step before. path, path_eps: (N, C, S, S) x and ε of the encoding. norms:
        (N, G, 2) of SurveyGraph. target: (N,). brain, window: (N, S, S). share: of the image, what is in the box.
        Others are scalars.
        """
        level, in_box = Level(signal, noise), InBox(norms, share)
        x = path + signal * departure
        _, eps = clean_and_noise(self.denoiser, x, t, level, 1.0, in_box)
        size, gradient = size_and_gradient(self.regressor, x, t.expand(x.shape[0]), brain, in_box)
        change = eps - path_eps
        shift = normalised_shift(
            missing=target - size, gradient=gradient, window=window[:, None], level=level, gain=gain
        )
        return departure + shift + length * (change + blend * (change - last)), change, size


class SizeGraph(nn.Module):
    """R(x, t) alone."""

    OUTPUTS = ("size",)

    def __init__(self, regressor: SizeRegressor) -> None:
        super().__init__()
        self.regressor = regressor

    def forward(self, x: Tensor, t: Tensor, brain: Tensor) -> Tensor:
        """(N,) for x (N, C, H, W) and brain (N, H, W)."""
        size, _ = size_before_gradient(self.regressor, x, t.expand(x.shape[0]), brain)
        return size


class SegmentGraph(nn.Module):
    """The probability of tumour in clean images."""

    OUTPUTS = ("probability",)

    def __init__(self, segmenter: DenseRegressor) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        """(N, H, W) for images (N, C, H, W)."""
        logits, _ = through_unet(self.segmenter, image, image.new_zeros(image.shape[0]))
        return torch.sigmoid(logits[:, 0])


class ProgressGraph(nn.Module):
    """The probability of tumour later in slices: `ProgressionNetwork.forward` as a walk; tests hold both together."""

    OUTPUTS = ("probability",)

    def __init__(self, progression: ProgressionNetwork) -> None:
        super().__init__()
        self.progression = progression

    def forward(self, images: Tensor, outline: Tensor, log_ratio: Tensor) -> Tensor:
        """(N, H, W) for images (N, C, H, W), outline (N, H, W) and log_ratio (N,)."""
        planes = planes_of(images, outline, log_ratio)
        logits, _ = through_unet(self.progression, planes, images.new_zeros(images.shape[0]))
        return torch.sigmoid(logits[:, 0])


class VolumeGraph(nn.Module):
    """The progression network on volumes, with its group norms in two stages."""

    OUTPUTS = ("answer",)

    def __init__(self, progression: nn.Module) -> None:
        super().__init__()
        self.progression = copy.deepcopy(progression)
        for module in list(self.progression.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.GroupNorm):
                    setattr(module, name, TwoStageNorm(child))

    def forward(self, planes: Tensor) -> Tensor:
        """(N, 2, Z, Y, X) of planes (N, P, Z, Y, X), see tumorcast.arrival.network."""
        answer: Tensor = self.progression(planes)
        return answer


class TwoStageNorm(nn.Module):
    """A group norm of volumes whose means are of planes first, and then of those.

    ONNX Runtime sums a whole group in one run of float32: that was off by 3e-4 at 128 x 160 x 144, this by 1e-6.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, Z, Y, X) of the same."""
        rows = features.reshape(features.shape[0], self.groups, -1, features.shape[3] * features.shape[4])
        centred = rows - _mean(rows)
        scaled = (centred * torch.rsqrt(_mean(centred * centred) + self.eps)).reshape(features.shape)
        return scaled * self.weight[:, None, None, None] + self.bias[:, None, None, None]


def _mean(rows: Tensor) -> Tensor:
    """(N, G, 1, 1) of (N, G, R, S)."""
    return rows.mean(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)


def outputs_of(module: nn.Module) -> tuple[str, ...]:
    """The names of what such a module answers."""
    names = module.OUTPUTS
    assert isinstance(names, tuple)
    return names


def graph_modules(model: ModelSet, normalise: Normalise = group_norm) -> dict[Graph, nn.Module]:
    """Every graph that takes slices, ready to be traced or run.

    normalise: what computes the denoiser's group norms of whole slices; another than the default is for torch alone.
    """
    modules: dict[Graph, nn.Module] = {
        Graph.ENCODE: EncodeGraph(model.denoiser, normalise),
        Graph.GUIDED: GuidedGraph(model.denoiser, model.regressor, normalise),
        Graph.SIZE: SizeGraph(model.regressor),
        Graph.SEGMENT: SegmentGraph(model.segmenter),
    }
    if model.info.box_multiple is not None:
        assert isinstance(model.regressor, DenseRegressor)
        modules[Graph.SURVEY] = SurveyGraph(model.denoiser, model.regressor)
        modules[Graph.BOX] = BoxGraph(model.denoiser, model.regressor)
    if model.progression is not None:
        modules[Graph.PROGRESS] = ProgressGraph(model.progression)
    return {graph: module.eval() for graph, module in modules.items()}
