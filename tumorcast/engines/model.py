"""A model set: the denoiser, the guiding regressor and the segmenter that belong together, as torch modules.

They are read from RUN folders, or from an engine bundle. A progression network may be among them.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tumorcast.diffusion.progression import EXTRA_PLANES, ProgressionNetwork
from tumorcast.diffusion.regressors import AttentionPoolRegressor, DenseRegressor, SizeRegressor
from tumorcast.diffusion.unet import UNet
from tumorcast.engines.bundle import PROGRESSION, Bundle
from tumorcast.engines.locating import locate, runs_in
from tumorcast.engines.protocol import ModelInfo
from tumorcast.errors import InputError
from tumorcast.settings import NetworkKind
from tumorcast.training.networks import TrainedNetwork, build, load_network
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo

log = logging.getLogger(__name__)

REGRESSORS = (NetworkKind.DENSE_REGRESSOR, NetworkKind.ATTENTION_POOL_REGRESSOR)


@dataclass(frozen=True)
class ModelSet:
    """Networks for the same images. entries: what each is, by "denoiser", "regressor", "segmenter", "progression"."""

    denoiser: UNet
    regressor: SizeRegressor
    segmenter: DenseRegressor
    info: ModelInfo
    entries: dict[str, RunInfo]
    progression: ProgressionNetwork | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The modules by the names of `entries`."""
        named: dict[str, nn.Module | None] = {
            "denoiser": self.denoiser,
            "regressor": self.regressor,
            "segmenter": self.segmenter,
            PROGRESSION: self.progression,
        }
        return {name: module for name, module in named.items() if module is not None}


def load_model_set(folders: list[Path]) -> ModelSet:
    """The networks in these folders. A dense regressor serves as segmenter where none is given.

    Raises InputError if a needed kind is missing or given twice, or if the networks are for different images.
    """
    networks = [load_network(run) for folder in folders for run in runs_in(locate(folder))]
    denoiser = _only(networks, (NetworkKind.DENOISER,), folders)
    regressor = _only(networks, REGRESSORS, folders)
    _check_alike(networks)
    given = _at_most_one(networks, NetworkKind.SEGMENTER, folders)
    if given is None:
        log.warning("no segmenter given: the regressor that guides also reads the sizes, which flatters them")
    size_reader = given or regressor
    segmenter = size_reader.module
    if not isinstance(segmenter, DenseRegressor):
        raise InputError(
            f"{regressor.path}: an attention-pool regressor cannot segment; add a segmenter "
            "(`tumorcast train segmenter`) to --model"
        )
    assert isinstance(denoiser.module, UNet)
    assert isinstance(regressor.module, DenseRegressor | AttentionPoolRegressor)
    progression = _at_most_one(networks, NetworkKind.SLICE_PROGRESSION, folders)
    info = ModelInfo(
        contrasts=denoiser.info.contrasts,
        image_size=denoiser.info.plane.image_size,
        noise_levels=min(denoiser.info.noise_levels, regressor.info.noise_levels),
        size_reader=size_reader.info.kind,
        sha256=_hash(networks),
        progression=progression is not None,
    )
    named = {"denoiser": denoiser, "regressor": regressor, "segmenter": size_reader, PROGRESSION: progression}
    entries = {name: network.info for name, network in named.items() if network is not None}
    return ModelSet(denoiser.module, regressor.module, segmenter, info, entries, _for_planes(progression))


def load_bundle(bundle: Bundle) -> ModelSet:
    """The torch networks of a bundle. Raises InputError if its weights do not fit its manifest."""
    manifest = bundle.manifest
    try:
        state = load_file(bundle.weights)
        modules = {name: build(entry.kind, entry.architecture) for name, entry in manifest.networks.items()}
        for name, module in modules.items():
            own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            module.load_state_dict({key: value.float() for key, value in own.items()})
            module.eval().requires_grad_(False)
    except (OSError, SafetensorError, RuntimeError) as fault:
        raise InputError(f"{bundle.weights}: not the networks of its manifest ({fault}); export it again") from None
    denoiser, regressor, segmenter = (modules[name] for name in ("denoiser", "regressor", "segmenter"))
    assert isinstance(denoiser, UNet) and isinstance(segmenter, DenseRegressor)
    assert isinstance(regressor, DenseRegressor | AttentionPoolRegressor)
    progression = modules.get(PROGRESSION)
    assert isinstance(progression, ProgressionNetwork | None)
    entries = {
        name: RunInfo(entry.kind, entry.architecture, manifest.contrasts, entry.noise_levels, entry.provenance)
        for name, entry in manifest.networks.items()
    }
    return ModelSet(denoiser, regressor, segmenter, bundle.info, entries, progression)


def _only(networks: list[TrainedNetwork], kinds: tuple[NetworkKind, ...], folders: list[Path]) -> TrainedNetwork:
    matching = [network for network in networks if network.info.kind in kinds]
    names = " or ".join(kinds)
    if not matching:
        where = ", ".join(map(str, folders))
        raise InputError(f"{where}: no {names} among the RUN folders; give --model that of one (`tumorcast train`) too")
    if len(matching) > 1:
        where = ", ".join(str(network.path) for network in matching)
        raise InputError(
            f"{where}: {len(matching)} networks of kind {names}, exactly one is needed; give --model one of them"
        )
    return matching[0]


def _at_most_one(networks: list[TrainedNetwork], kind: NetworkKind, folders: list[Path]) -> TrainedNetwork | None:
    given = any(network.info.kind is kind for network in networks)
    return _only(networks, (kind,), folders) if given else None


def _for_planes(progression: TrainedNetwork | None) -> ProgressionNetwork | None:
    """Its module. Raises InputError if that takes other planes than the contrasts, the outline and the size."""
    if progression is None:
        return None
    planes, needed = progression.info.architecture.in_channels, len(progression.info.contrasts) + EXTRA_PLANES
    if planes != needed:
        raise InputError(
            f"{progression.path / RUN_FILE}: in_channels = {planes}, but a progression network of "
            f"{len(progression.info.contrasts)} contrasts takes {needed}; train it again"
        )
    assert isinstance(progression.module, ProgressionNetwork)
    return progression.module


def _check_alike(networks: list[TrainedNetwork]) -> None:
    first = networks[0]
    for other in networks[1:]:
        for name, a, b in (
            ("contrasts", first.info.contrasts, other.info.contrasts),
            ("image_size", first.info.plane.image_size, other.info.plane.image_size),
        ):
            if a != b:
                raise InputError(f"{other.path}: {name} = {b}, but {first.path} has {a}; use networks trained alike")


def _hash(networks: list[TrainedNetwork]) -> str:
    digest = hashlib.sha256()
    for network in sorted(networks, key=lambda n: n.info.kind):
        for name in (RUN_FILE, WEIGHTS_FILE):
            digest.update((network.path / name).read_bytes())
    return digest.hexdigest()
