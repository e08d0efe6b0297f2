"""A model set: the denoiser, the guiding regressor and the segmenter that belong together, as torch modules.

They are read from RUN folders, or from an engine bundle.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from tumorcast.config import NetworkKind
from tumorcast.diffusion.regressors import AttentionPoolRegressor, DenseRegressor, SizeRegressor
from tumorcast.diffusion.unet import UNet
from tumorcast.engines.bundle import Bundle
from tumorcast.engines.engine import ModelInfo
from tumorcast.errors import InputError
from tumorcast.training.networks import TrainedNetwork, build, load_network
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo

log = logging.getLogger(__name__)

REGRESSORS = (NetworkKind.DENSE_REGRESSOR, NetworkKind.ATTENTION_POOL_REGRESSOR)


@dataclass(frozen=True)
class ModelSet:
    """Networks for the same images. entries: what each is, by "denoiser", "regressor" and "segmenter"."""

    denoiser: UNet
    regressor: SizeRegressor
    segmenter: DenseRegressor
    info: ModelInfo
    entries: dict[str, RunInfo]


def find_runs(folders: list[Path]) -> list[Path]:
    """The RUN folders among `folders` and directly below them, in order. Raises InputError if a folder has none."""
    runs = []
    for folder in folders:
        found = [folder] if (folder / RUN_FILE).is_file() else sorted(p.parent for p in folder.glob(f"*/{RUN_FILE}"))
        if not found:
            raise InputError(f"{folder}: no {RUN_FILE} in it or one folder below; give --model a folder of `train`")
        runs += found
    return runs


def load_model_set(folders: list[Path]) -> ModelSet:
    """The networks in these folders. Where no segmenter is given, a dense regressor serves as one.

    Raises InputError if a needed kind is missing or given twice, or if the networks are for different images.
    """
    networks = [load_network(run) for run in find_runs(folders)]
    denoiser = _only(networks, (NetworkKind.DENOISER,), folders)
    regressor = _only(networks, REGRESSORS, folders)
    _check_same_images(networks)
    given = any(network.info.kind is NetworkKind.SEGMENTER for network in networks)
    judge = _only(networks, (NetworkKind.SEGMENTER,), folders) if given else regressor
    if not given:
        log.warning("no segmenter given: the regressor that guides also reads the sizes, which flatters them")
    segmenter = judge.module
    if not isinstance(segmenter, DenseRegressor):
        raise InputError(
            f"{regressor.path}: an attention-pool regressor cannot segment; add a segmenter "
            "(`tumorcast train segmenter`) to --model"
        )
    assert isinstance(denoiser.module, UNet)
    assert isinstance(regressor.module, DenseRegressor | AttentionPoolRegressor)
    info = ModelInfo(
        contrasts=denoiser.info.contrasts,
        image_size=denoiser.info.architecture.image_size,
        noise_levels=min(denoiser.info.noise_levels, regressor.info.noise_levels),
        judge=judge.info.kind,
        sha256=_hash(networks),
    )
    entries = {"denoiser": denoiser.info, "regressor": regressor.info, "segmenter": judge.info}
    return ModelSet(denoiser.module, regressor.module, segmenter, info, entries)


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
    entries = {
        name: RunInfo(entry.kind, entry.architecture, manifest.contrasts, entry.noise_levels, entry.provenance)
        for name, entry in manifest.networks.items()
    }
    return ModelSet(denoiser, regressor, segmenter, bundle.info, entries)


def _only(networks: list[TrainedNetwork], kinds: tuple[NetworkKind, ...], folders: list[Path]) -> TrainedNetwork:
    found = [network for network in networks if network.info.kind in kinds]
    if len(found) != 1:
        names = " or ".join(kinds)
        where = ", ".join(str(network.path) for network in found) or ", ".join(map(str, folders))
        raise InputError(f"{where}: {len(found)} networks of kind {names}, exactly one is needed; change --model")
    return found[0]


def _check_same_images(networks: list[TrainedNetwork]) -> None:
    first = networks[0]
    for other in networks[1:]:
        for name, a, b in (
            ("contrasts", first.info.contrasts, other.info.contrasts),
            ("image_size", first.info.architecture.image_size, other.info.architecture.image_size),
        ):
            if a != b:
                raise InputError(f"{other.path}: {name} = {b}, but {first.path} has {a}; use networks trained alike")


def _hash(networks: list[TrainedNetwork]) -> str:
    digest = hashlib.sha256()
    for network in sorted(networks, key=lambda n: n.info.kind):
        for name in (RUN_FILE, WEIGHTS_FILE):
            digest.update((network.path / name).read_bytes())
    return digest.hexdigest()
