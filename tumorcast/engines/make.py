"""Make, check and build bundles: nothing is left behind that does not match the torch reference."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from tumorcast.arrival.crop import LEAST_SIDES
from tumorcast.arrival.planes import EXTRA_PLANES
from tumorcast.data.cohort import Cohort
from tumorcast.durable import write_text
from tumorcast.engines import parity
from tumorcast.engines.bundle import Bundle, Manifest, TensorParity, is_bundle, write_manifest
from tumorcast.engines.export import ExportSettings, whole_folder, write_graphs
from tumorcast.engines.locating import locate_all
from tumorcast.engines.model import ModelSet, Networks, bundle_networks, for_boxes, load_networks, whole_slices
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.onnxruntime_package import onnxruntime
from tumorcast.engines.progression import OnnxVolume
from tumorcast.engines.protocol import check_same_images
from tumorcast.engines.providers import SessionTarget
from tumorcast.engines.torch_engine import TorchEngine, TorchVolume
from tumorcast.engines.torch_graphs import TorchGraphEngine
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.settings import CheckDepth, NetworkKind, Precision, Provider

log = logging.getLogger(__name__)

COMPARISONS_FILE = "comparisons.json"
KNOWN = TypeAdapter(dict[str, dict[str, float]])
Progress = Callable[[int, int], None]
CHECKED_ROWS = 2  # slices of a cohort that parity looks at
NO_BFLOAT16 = "onnxruntime's CPU provider has no bfloat16 convolution; check on a GPU with --check full --provider cuda"


def make_bundle(
    model_paths: list[Path],
    out: Path,
    settings: ExportSettings,
    cohort: Path | None,
    report: Progress = lambda *_: None,
    *,
    depth: CheckDepth = CheckDepth.FULL,
) -> Manifest:
    """Export the networks of RUN folders, or of a bundle, to the new folder `out`, which is there only if they match.

    Graphs are written first and compared with torch afterwards; where that is stopped, the next call with the same
    goes on from there. report: of the graphs, then of the comparisons. Raises EngineError if they do not match.
    """
    networks = networks_of(model_paths)
    if networks.images is None:
        _check_alone(settings.precision, cohort)
    networks = for_boxes(networks) if settings.boxes else whole_slices(networks)
    inputs = [] if networks.images is None else parity_inputs(networks.images, cohort)
    with whole_folder(out) as folder:
        bundle = write_graphs(networks, folder, settings, report)
        kept = KeptComparisons(folder / COMPARISONS_FILE)
        differences, checked_with = measure(
            bundle, networks, inputs, Provider.CPU, report, depth=depth, comparisons=kept
        )
        parity.check(differences, str(out))
        kept.path.unlink(missing_ok=True)
        manifest = bundle.manifest.model_copy(update={"parity": differences, "checked_with": checked_with})
        write_manifest(folder, manifest)
    return manifest


class KeptComparisons(parity.Comparisons):
    """Comparisons in a file, which is whole after each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        if path.is_file():
            try:
                self.known = KNOWN.validate_json(path.read_bytes())
            except ValidationError:
                log.warning("%s: damaged; all is compared anew", path)

    def keep(self, name: str, differences: dict[str, float]) -> None:
        """Keep those of one comparison, for another process too."""
        super().keep(name, differences)
        write_text(self.path, json.dumps(self.known))


def _check_alone(precision: Precision, cohort: Path | None) -> None:
    """Raises UsageError for what is told of images where the progression network on volumes is alone."""
    what = "the progression network on volumes is alone"
    if precision is not Precision.FP32:
        raise UsageError(f"--precision {precision}: of a denoiser, but {what}; leave it out")
    if cohort is not None:
        raise UsageError(f"--cohort {cohort}: slices to compare images on, but {what}; leave it out")


def networks_of(model_paths: list[Path]) -> Networks:
    """The torch networks of RUN folders, or of one bundle."""
    folders = locate_all(model_paths)
    return bundle_networks(Bundle.open(folders[0])) if is_bundle(folders[0]) else load_networks(folders)


def check_bundle(
    bundle_folder: Path,
    cohort: Path | None,
    provider: Provider,
    report: Progress = lambda *_: None,
    *,
    device: int = 0,
    cache: Path | None = None,
    rows: int | None = None,
    depth: CheckDepth = CheckDepth.FULL,
) -> dict[str, TensorParity]:
    """Compare a bundle's graphs with torch networks of its weights. Raises EngineError if they differ too much.

    rows: the batch that the graphs are opened for; None is the least that the comparison needs.
    """
    bundle = Bundle.open(bundle_folder)
    if bundle.manifest.precision is Precision.BF16 and provider is Provider.CPU:
        raise EngineError(f"{bundle_folder}: {NO_BFLOAT16}")
    networks = bundle_networks(bundle)
    if networks.images is None and cohort is not None:
        _check_alone(Precision.FP32, cohort)
    inputs = [] if networks.images is None else parity_inputs(networks.images, cohort)
    differences, _ = measure(
        bundle, networks, inputs, provider, report, device=device, cache=cache, rows=rows, depth=depth
    )
    parity.check(differences, str(bundle_folder))
    return differences


def measure(
    bundle: Bundle,
    networks: Networks,
    inputs: list[parity.Inputs],
    provider: Provider,
    report: Progress,
    *,
    device: int = 0,
    cache: Path | None = None,
    rows: int | None = None,
    depth: CheckDepth = CheckDepth.FULL,
    comparisons: parity.Comparisons | None = None,
) -> tuple[dict[str, TensorParity], str]:
    """The differences from the torch reference, and what was compared with it; in bfloat16 on a CPU see NO_BFLOAT16.

    comparisons: those of images that are known already; a volume's take seconds and are made again.
    """
    differences: dict[str, TensorParity] = {}
    precision = bundle.manifest.precision
    checked_with = f"onnxruntime {onnxruntime().__version__}"
    compare = partial(
        parity.compare, precision=precision, inputs=inputs, report=report, depth=depth, comparisons=comparisons
    )
    if networks.images is not None and precision is Precision.BF16 and provider is Provider.CPU:
        lowered = TorchGraphEngine(networks.images, precision)
        differences = compare(lowered, TorchEngine(networks.images))
        checked_with = f"torch {torch.__version__}, cpu: {NO_BFLOAT16}"  # the numerics, and not the graphs
    elif networks.images is not None:
        engine = OnnxEngine(bundle, provider, device=device, rows=rows or CHECKED_ROWS, cache=cache)
        differences = compare(engine, TorchEngine(networks.images))
        checked_with += f", {engine.device}"
    if networks.volume is not None:
        volume = OnnxVolume(bundle, provider, device=device, cache=cache)
        differences |= parity.compare_volumes(volume, TorchVolume(networks.volume), report)
        checked_with += f", {volume.device}" if networks.images is None else ""
    if networks.images is not None and depth is CheckDepth.QUICK:
        checked_with += ", one slice at two noise levels"
    return differences, checked_with


def parity_inputs(model: ModelSet, cohort: Path | None) -> list[parity.Inputs]:
    """Noise, and slices: a cohort's with most tumour, or phantoms. Raises InputError if the cohort does not fit."""
    channels, side = len(model.info.contrasts), model.info.image_size
    slices = parity.phantom(channels, side) if cohort is None else _of_cohort(cohort, model)
    return [slices, parity.noise(channels, side)]


def _of_cohort(path: Path, model: ModelSet) -> parity.Inputs:
    with Cohort.open(path) as cohort:
        check_same_images(cohort, model.info.images)
        slices = []
        for patient in cohort.patient_ids():
            last = cohort.sessions(patient)[-1]
            if last.n_slices:
                slices.append(cohort.slice(patient, last.id, int(np.argmax(last.area_mm2))))
            if len(slices) == CHECKED_ROWS:
                break
    if not slices:
        raise InputError(f"{path}: holds no slices; give --cohort one with slices, or leave it out")
    return parity.Inputs(
        "cohort",
        images=np.stack([part.image for part in slices]),
        brains=np.stack([part.brain for part in slices]).astype(np.float32),
        outlines=np.stack([part.labels > 0 for part in slices]).astype(np.float32),
    )


def build_tensorrt(
    bundle_folder: Path, device: int, cache: Path | None, batch: int, report: Progress = lambda *_: None
) -> str:
    """Build TensorRT's engines ahead, into the cache that forecasts of this batch look in; returns their device."""
    bundle = Bundle.open(bundle_folder)
    manifest = bundle.manifest
    builds: list[Callable[[], object]] = []
    if manifest.for_images:
        engine = OnnxEngine(bundle, Provider.TENSORRT, device=device, rows=batch, cache=cache)
        builds += [partial(engine.open, graph) for graph in manifest.slice_graphs]
    if manifest.progression is NetworkKind.PROGRESSION:
        builds.append(partial(_build_volume, bundle, device, cache))
    for done, build in enumerate(builds):
        report(done, len(builds))
        build()
    report(len(builds), len(builds))
    return engine.device if manifest.for_images else SessionTarget.find(Provider.TENSORRT, device, 1).device


def _build_volume(bundle: Bundle, device: int, cache: Path | None) -> None:
    """TensorRT builds for the sides that it meets: those of the least volume here, others when they come."""
    network = OnnxVolume(bundle, Provider.TENSORRT, device=device, cache=cache)
    network.answer(np.zeros((len(network.contrasts) + EXTRA_PLANES, *LEAST_SIDES), np.float32))
