"""The networks of a model as torch modules, from RUN folders or from an engine bundle.

A model set is the denoiser, the guiding regressor and the segmenter that belong together, and maybe a progression
network on slices. That on volumes stands beside it, or alone.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tumorcast.arrival.planes import EXTRA_PLANES as VOLUME_PLANES
from tumorcast.diffusion.box import box_multiple
from tumorcast.diffusion.progression import EXTRA_PLANES as SLICE_PLANES
from tumorcast.diffusion.progression import ProgressionNetwork
from tumorcast.diffusion.regressors import AttentionPoolRegressor, DenseRegressor, SizeRegressor
from tumorcast.diffusion.unet import UNet
from tumorcast.engines.bundle import IMAGE_NETWORKS, PROGRESSION, Bundle
from tumorcast.engines.locating import locate, runs_in
from tumorcast.engines.protocol import ModelInfo
from tumorcast.engines.weights import read_network
from tumorcast.errors import InputError
from tumorcast.settings import NetworkKind
from tumorcast.training.networks import TrainedNetwork, build, load_network
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo

log = logging.getLogger(__name__)

REGRESSORS = (NetworkKind.DENSE_REGRESSOR, NetworkKind.ATTENTION_POOL_REGRESSOR)
PROGRESSIONS = (NetworkKind.PROGRESSION, NetworkKind.SLICE_PROGRESSION)
PLANES = {NetworkKind.PROGRESSION: VOLUME_PLANES, NetworkKind.SLICE_PROGRESSION: SLICE_PLANES}  # beside the contrasts


@dataclass(frozen=True)
class ModelSet:
    """Networks for the same images. entries: what each is, by "denoiser", "regressor", "segmenter", "progression".

    progression: that on slices.
    """

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


@dataclass(frozen=True)
class Networks:
    """All that a bundle may hold: networks of images, and a progression network on volumes; one of them at least."""

    images: ModelSet | None
    volume: TrainedNetwork | None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules by the names of `entries`."""
        images = {} if self.images is None else self.images.networks
        return images if self.volume is None else images | {PROGRESSION: self.volume.module}

    @property
    def entries(self) -> dict[str, RunInfo]:
        """What each network is, by its name in a bundle."""
        images = {} if self.images is None else self.images.entries
        return images if self.volume is None else images | {PROGRESSION: self.volume.info}

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Of the images, or of the progression network where that is alone."""
        return next(iter(self.entries.values())).contrasts


def load_networks(folders: list[Path]) -> Networks:
    """The networks in these folders, with networks of images or without.

    Raises InputError as `load_model_set` does, but where there is a progression network on volumes alone.
    """
    networks = [load_network(run) for folder in folders for run in runs_in(locate(folder))]
    progression = _at_most_one(networks, PROGRESSIONS, folders)
    if progression is not None:
        _check_planes(progression)
    volume = progression if progression and progression.info.kind is NetworkKind.PROGRESSION else None
    alone = volume is not None and len(networks) == 1
    return Networks(None if alone else _model_set(networks, folders, progression), volume)


def load_model_set(folders: list[Path]) -> ModelSet:
    """The networks of images in these folders. A dense regressor serves as segmenter where none is given.

    Raises InputError if a needed kind is missing or given twice, or if the networks are for different images.
    """
    images = load_networks(folders).images
    if images is None:
        raise _none_of((NetworkKind.DENOISER,), folders)
    return images


def _model_set(networks: list[TrainedNetwork], folders: list[Path], progression: TrainedNetwork | None) -> ModelSet:
    denoiser = _only(networks, (NetworkKind.DENOISER,), folders)
    regressor = _only(networks, REGRESSORS, folders)
    _check_alike([network for network in networks if network.info.kind is not NetworkKind.PROGRESSION])
    given = _at_most_one(networks, (NetworkKind.SEGMENTER,), folders)
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
    info = ModelInfo(
        contrasts=denoiser.info.contrasts,
        image_size=denoiser.info.plane.image_size,
        noise_levels=min(denoiser.info.noise_levels, regressor.info.noise_levels),
        size_reader=size_reader.info.kind,
        sha256=_hash(networks),
        progression=None if progression is None else progression.info.kind,
    )
    entries = {"denoiser": denoiser.info, "regressor": regressor.info, "segmenter": size_reader.info}
    on_slices = None
    if progression is not None and isinstance(progression.module, ProgressionNetwork):
        entries, on_slices = entries | {PROGRESSION: progression.info}, progression.module
    return ModelSet(denoiser.module, regressor.module, segmenter, info, entries, on_slices)


def for_boxes(networks: Networks) -> Networks:
    """The same networks, to compute in boxes. Raises InputError if they cannot."""
    if networks.images is None:
        raise InputError("--boxes: there are no networks of images; leave it out")
    entries = networks.images.entries
    if entries["regressor"].kind is not NetworkKind.DENSE_REGRESSOR:
        raise InputError(
            "--boxes: the regressor is the attention-pool one, which looks at whole slices; give a dense one "
            "(`tumorcast train dense-regressor`), or leave --boxes out"
        )
    planes = [entries[name].plane for name in ("denoiser", "regressor")]
    multiple = box_multiple(*planes)
    if multiple is None:
        raise InputError(f"--boxes: slices of {planes[0].image_size} px are too small for boxes; leave it out")
    return _with_multiple(networks, networks.images, multiple)


def whole_slices(networks: Networks) -> Networks:
    """The same networks, to compute whole slices alone."""
    return networks if networks.images is None else _with_multiple(networks, networks.images, None)


def _with_multiple(networks: Networks, images: ModelSet, multiple: int | None) -> Networks:
    return replace(networks, images=replace(images, info=replace(images.info, box_multiple=multiple)))


def bundle_networks(bundle: Bundle) -> Networks:
    """The torch networks of a bundle. Raises InputError if its weights do not fit its manifest."""
    volume = bundle_volume(bundle) if bundle.manifest.progression is NetworkKind.PROGRESSION else None
    return Networks(load_bundle(bundle) if bundle.manifest.for_images else None, volume)


def bundle_volume(bundle: Bundle) -> TrainedNetwork:
    """The progression network on volumes of a bundle that has one; the others are not read."""
    info, state = bundle.manifest.network(PROGRESSION), read_network(bundle.weights, PROGRESSION)
    module = _filled(bundle, info, {name: torch.from_numpy(value) for name, value in state.items()})
    return TrainedNetwork(info, module, bundle.folder)


def load_bundle(bundle: Bundle) -> ModelSet:
    """The torch networks of images of a bundle. Raises InputError if it has none, or its weights do not fit."""
    info, manifest = bundle.info, bundle.manifest
    on_slices = {PROGRESSION} if info.progression is NetworkKind.SLICE_PROGRESSION else set()
    entries = {name: manifest.network(name) for name in manifest.networks if name in IMAGE_NETWORKS | on_slices}
    try:
        state = load_file(bundle.weights)
    except (OSError, SafetensorError) as fault:
        raise _unfit(bundle, fault) from None
    modules = {}
    for name, entry in entries.items():
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        modules[name] = _filled(bundle, entry, own)
    denoiser, regressor, segmenter = (modules[name] for name in ("denoiser", "regressor", "segmenter"))
    assert isinstance(denoiser, UNet) and isinstance(segmenter, DenseRegressor)
    assert isinstance(regressor, DenseRegressor | AttentionPoolRegressor)
    progression = modules.get(PROGRESSION)
    assert isinstance(progression, ProgressionNetwork | None)
    return ModelSet(denoiser, regressor, segmenter, info, entries, progression)


def _filled(bundle: Bundle, info: RunInfo, state: dict[str, Tensor]) -> nn.Module:
    """A network of the bundle with its weights, in float32 and ready to use."""
    module = build(info.kind, info.architecture)
    try:
        module.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as fault:
        raise _unfit(bundle, fault) from None
    return module.eval().requires_grad_(False)


def _unfit(bundle: Bundle, fault: Exception) -> InputError:
    return InputError(f"{bundle.weights}: not the networks of its manifest ({fault}); export it again")


def _only(networks: list[TrainedNetwork], kinds: tuple[NetworkKind, ...], folders: list[Path]) -> TrainedNetwork:
    matching = [network for network in networks if network.info.kind in kinds]
    if not matching:
        raise _none_of(kinds, folders)
    if len(matching) > 1:
        where = ", ".join(str(network.path) for network in matching)
        raise InputError(
            f"{where}: {len(matching)} networks of kind {' or '.join(kinds)}, exactly one is needed; give --model one "
            "of them"
        )
    return matching[0]


def _none_of(kinds: tuple[NetworkKind, ...], folders: list[Path]) -> InputError:
    where, names = ", ".join(map(str, folders)), " or ".join(kinds)
    return InputError(f"{where}: no {names} among the RUN folders; give --model that of one (`tumorcast train`) too")


def _at_most_one(
    networks: list[TrainedNetwork], kinds: tuple[NetworkKind, ...], folders: list[Path]
) -> TrainedNetwork | None:
    given = any(network.info.kind in kinds for network in networks)
    return _only(networks, kinds, folders) if given else None


def _check_planes(progression: TrainedNetwork) -> None:
    """Raises InputError if it takes other planes than the contrasts and those of its kind."""
    info = progression.info
    needed = len(info.contrasts) + PLANES[info.kind]
    if info.architecture.in_channels != needed:
        raise InputError(
            f"{progression.path / RUN_FILE}: in_channels = {info.architecture.in_channels}, but a progression network "
            f"of {len(info.contrasts)} contrasts takes {needed}; train it again"
        )


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
