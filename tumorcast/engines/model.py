"""A model set: the denoiser, the guiding regressor and the segmenter that belong together, read from RUN folders."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from tumorcast.config import NetworkKind
from tumorcast.diffusion.regressors import AttentionPoolRegressor, DenseRegressor, SizeRegressor
from tumorcast.diffusion.unet import UNet
from tumorcast.errors import InputError
from tumorcast.training.networks import TrainedNetwork, load_network
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo

log = logging.getLogger(__name__)

REGRESSORS = (NetworkKind.DENSE_REGRESSOR, NetworkKind.ATTENTION_POOL_REGRESSOR)


@dataclass(frozen=True)
class ModelSet:
    """Networks for the same images.

    noise_levels: diffusion times that denoiser and regressor both know. judge: which network reads the sizes off the
    generated slices. sha256: one sum over all weights and descriptions.
    """

    denoiser: UNet
    regressor: SizeRegressor
    segmenter: DenseRegressor
    info: RunInfo
    noise_levels: int
    judge: NetworkKind
    sha256: str


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
    return ModelSet(
        denoiser=denoiser.module,
        regressor=regressor.module,
        segmenter=segmenter,
        info=denoiser.info,
        noise_levels=min(denoiser.info.noise_levels, regressor.info.noise_levels),
        judge=judge.info.kind,
        sha256=_hash(networks),
    )


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
