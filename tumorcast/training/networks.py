"""Which network each kind is, its default architecture, and how one is read from its RUN folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tumorcast.arrival.network import ArrivalNetwork
from tumorcast.arrival.planes import EXTRA_PLANES as VOLUME_PLANES
from tumorcast.diffusion.progression import EXTRA_PLANES, ProgressionNetwork
from tumorcast.diffusion.regressors import AttentionPoolRegressor, DenseRegressor
from tumorcast.diffusion.unet import UNet
from tumorcast.errors import InputError
from tumorcast.settings import Architecture, NetworkKind, VolumeArchitecture
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo, read_run_info


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode and what it is."""

    info: RunInfo
    module: nn.Module
    path: Path


def default_architecture(kind: NetworkKind, *, image_size: int, contrasts: int) -> Architecture:
    """A network of moderate size for (contrasts, image_size, image_size); 64 px trains in an hour on 2 cores."""
    common = {"image_size": image_size, "in_channels": contrasts}
    match kind:
        case NetworkKind.DENOISER:
            mult = (1, 2, 3, 4) if image_size <= 64 else (1, 1, 2, 3, 4)
            return Architecture(
                **common, out_channels=contrasts, channel_mult=mult, attention_resolutions=(8,), classes=2
            )
        case NetworkKind.ATTENTION_POOL_REGRESSOR:
            small = image_size <= 64
            return Architecture(
                **common,
                out_channels=1,
                channel_mult=(1, 2, 3, 4) if small else (1, 1, 2, 2, 4, 4),  # at 256 px this is the paper's
                res_blocks=2 if small else 4,
                attention_resolutions=(16, 8) if small else (32, 16, 8),
                head_channels=32 if small else 64,
                scale_shift_norm=True,
                resblock_updown=True,
            )
        case NetworkKind.DENSE_REGRESSOR | NetworkKind.SEGMENTER:
            return Architecture(
                **common,
                out_channels=1,
                channel_mult=(1, 2, 2) if image_size <= 64 else (1, 1, 2, 2),
                res_blocks=1,
                attention_resolutions=(),
                scale_shift_norm=True,
                resblock_updown=True,
            )
        case NetworkKind.SLICE_PROGRESSION:
            return Architecture(
                image_size=image_size,
                in_channels=contrasts + EXTRA_PLANES,
                out_channels=1,
                channel_mult=(1, 2, 3, 4) if image_size <= 64 else (1, 1, 2, 3, 4),
                res_blocks=1,
                attention_resolutions=(8,),
                resblock_updown=True,
            )
        case NetworkKind.PROGRESSION:
            raise ValueError("a network on volumes; see volume_architecture")
        case _:
            assert_never(kind)


def volume_architecture(*, contrasts: int, voxel_mm: float) -> VolumeArchitecture:
    """The progression network on volumes."""
    return VolumeArchitecture(in_channels=contrasts + VOLUME_PLANES, voxel_mm=voxel_mm)


def build(kind: NetworkKind, architecture: Architecture | VolumeArchitecture) -> nn.Module:
    """An untrained network of this kind."""
    if isinstance(architecture, VolumeArchitecture):
        return ArrivalNetwork(architecture)
    match kind:
        case NetworkKind.DENOISER:
            return UNet(architecture)
        case NetworkKind.ATTENTION_POOL_REGRESSOR:
            return AttentionPoolRegressor(architecture)
        case NetworkKind.DENSE_REGRESSOR | NetworkKind.SEGMENTER:
            return DenseRegressor(architecture)
        case NetworkKind.SLICE_PROGRESSION:
            return ProgressionNetwork(architecture)
        case NetworkKind.PROGRESSION:
            raise ValueError("the architecture is one of slices")
        case _:
            assert_never(kind)


def load_network(run: Path) -> TrainedNetwork:
    """The network in folder `run`, in float32 and ready to use. Raises InputError if its files do not fit together."""
    info = read_run_info(run)
    module = build(info.kind, info.architecture)
    path = run / WEIGHTS_FILE
    try:
        state: dict[str, Tensor] = load_file(path)
        module.load_state_dict({name: value.float() for name, value in state.items()})
    except (OSError, SafetensorError, RuntimeError) as fault:
        raise InputError(
            f"{path}: does not hold the network that {RUN_FILE} describes ({fault}); copy it whole, or train again"
        ) from None
    module.eval().requires_grad_(False)
    return TrainedNetwork(info, module, run)
