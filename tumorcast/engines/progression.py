"""The progression network on volumes, opened alone: from a bundle in ONNX Runtime, or from RUN folders in torch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tumorcast.diffusion.sampler import Array
from tumorcast.engines.batches import first_line, ran_out_of_memory
from tumorcast.engines.bundle import PROGRESSION, Bundle, Graph, is_bundle, read_manifest
from tumorcast.engines.guarded import GuardedVolume
from tumorcast.engines.locating import locate_all, volume_run
from tumorcast.engines.onnx_engine import open_session, remedy_for
from tumorcast.engines.opening import check_torch, device_index
from tumorcast.engines.protocol import VolumeEngine
from tumorcast.engines.providers import SessionTarget
from tumorcast.engines.weights import network_sum, read_network
from tumorcast.errors import EngineError, InputError
from tumorcast.settings import NetworkKind, Provider


def open_progression(
    model_paths: Sequence[Path],
    provider: Provider | None = None,
    device: str | None = None,
    *,
    cache: Path | None = None,
) -> VolumeEngine:
    """The progression network on volumes of a model; no other network of it is opened.

    provider, device, cache: as in EngineChoice.

    Raises InputError where the model has none, and else as `open_engine` does.
    """
    folders = locate_all(model_paths)
    if is_bundle(folders[0]):
        if read_manifest(folders[0]).progression is not NetworkKind.PROGRESSION:
            raise _has_none(folders)
        if provider is not Provider.TORCH:
            named = provider or Provider.CPU
            bundle = Bundle.open(folders[0], (Graph.PROGRESS,))
            return OnnxVolume(bundle, named, device=device_index(named, device), cache=cache)
    elif volume_run(folders) is None:
        raise _has_none(folders)
    check_torch(provider, folders)
    return _in_torch(folders, device or "cpu")


def has_volume_network(model_paths: Sequence[Path]) -> bool:
    """Whether a model has a progression network on volumes. Raises InputError where there is no model."""
    folders = locate_all(model_paths)
    if is_bundle(folders[0]):
        return read_manifest(folders[0]).progression is NetworkKind.PROGRESSION
    return volume_run(folders) is not None


def _in_torch(folders: list[Path], device: str) -> VolumeEngine:
    from tumorcast.engines.model import bundle_volume
    from tumorcast.engines.torch_engine import TorchVolume
    from tumorcast.training.networks import load_network

    run = None if is_bundle(folders[0]) else volume_run(folders)
    network = bundle_volume(Bundle.open(folders[0], (Graph.PROGRESS,))) if run is None else load_network(run)
    return GuardedVolume(TorchVolume(network, device))


def _has_none(folders: list[Path]) -> InputError:
    return InputError(
        f"{', '.join(map(str, folders))}: has no progression network on volumes; train one with `tumorcast train "
        "progression`, or give one by --place, or --place front"
    )


class OnnxVolume:
    """The graph progress.onnx of a bundle, of which nothing else is opened."""

    def __init__(
        self, bundle: Bundle, provider: Provider = Provider.CPU, *, device: int = 0, cache: Path | None = None
    ) -> None:
        info = bundle.manifest.network(PROGRESSION)
        self.bundle, self.provider = bundle, provider
        self.contrasts, self.voxel_mm = info.contrasts, info.volume.voxel_mm
        self.sha256 = network_sum(info, read_network(bundle.weights, PROGRESSION))
        target = SessionTarget.find(provider, device, 1)
        self.device = target.device
        # ONNX Runtime flushes denormal numbers in the thread that opens a session: it gets a thread of its own.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime")
        folder = cache or bundle.folder / "tensorrt"
        self._session = self._thread.submit(open_session, bundle, Graph.PROGRESS, target, folder).result()

    def answer(self, planes: Array) -> Array:
        """(2, Z, Y, X) of planes (P, Z, Y, X), see tumorcast.arrival.network.

        Raises EngineError if the device cannot compute it.
        """
        feeds = {"planes": np.ascontiguousarray(planes[None], np.float32)}
        try:
            answer: Array = self._thread.submit(self._session.run, ["answer"], feeds).result()[0][0]
        except Exception as fault:
            raise self._failed(fault, planes.shape) from fault
        return answer

    def _failed(self, fault: Exception, shape: tuple[int, ...]) -> EngineError:
        sides = " x ".join(map(str, shape[1:]))
        if ran_out_of_memory(fault):
            return EngineError(
                f"{self.device}: out of memory with a volume of {sides} ({first_line(fault)}); use a device with more "
                "memory, or --provider cpu"
            )
        path = self.bundle.graph(Graph.PROGRESS)
        return EngineError(
            f"{path}: failed on {self.device} with a volume of {sides}: {first_line(fault)}; "
            f"{remedy_for(self.bundle, self.provider)}"
        )
