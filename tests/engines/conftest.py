"""Bundles of small networks with random weights: layers of zeros would hide what is compared on them."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tumorcast.arrival.planes import EXTRA_PLANES
from tumorcast.engines.bundle import IMAGE_GRAPHS, Graph, read_manifest, write_manifest
from tumorcast.engines.providers import Gpu, SessionTarget
from tumorcast.settings import Architecture, CheckDepth, NetworkKind, Provider, VolumeArchitecture
from tumorcast.training.checkpoint import save_tensors
from tumorcast.training.networks import build, default_architecture
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo

SIDE, CONTRASTS, NOISE_LEVELS = 32, ("t1n", "t1c"), 300
VOLUME_CONTRASTS = ("t1c", "t2f", "t1n")  # others than those of the images
SMALL = {"channel_mult": (1, 2), "res_blocks": 1, "attention_resolutions": (), "head_channels": 32}
LEAST = SMALL | {"channel_mult": (1,)}


def small_architecture(kind: NetworkKind, size: dict[str, Any]) -> Architecture:
    """The default one but for its size. Middle blocks attend in any; tracing takes a second for each block."""
    told = default_architecture(kind, image_size=SIDE, contrasts=len(CONTRASTS)).model_dump()
    return Architecture(**told | (LEAST if kind is NetworkKind.SEGMENTER else size))


def write_run(kind: NetworkKind, run: Path, size: dict[str, Any]) -> None:
    """A RUN folder of a random network; a segmenter's weights are numbers that half precision holds."""
    write_random(RunInfo(kind, small_architecture(kind, size), CONTRASTS, NOISE_LEVELS, {}), run)


def write_volume_run(run: Path, contrasts: tuple[str, ...] = VOLUME_CONTRASTS) -> Path:
    """A RUN folder of a random progression network on volumes, the least there is."""
    architecture = VolumeArchitecture(in_channels=len(contrasts) + EXTRA_PLANES, widths=(8, 8, 8, 8), voxel_mm=2.0)
    write_random(RunInfo(NetworkKind.PROGRESSION, architecture, contrasts, 1, {}), run)
    return run


def write_random(info: RunInfo, run: Path) -> None:
    """A RUN folder of this network with random weights."""
    kind = info.kind
    generator = torch.Generator().manual_seed(len(kind.removeprefix("slice-")))
    network = build(kind, info.architecture)
    tensors = {}
    for name, value in network.state_dict().items():
        random = 0.5 * torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
        tensors[name] = 1 + random if name.endswith("weight") and value.ndim == 1 else random
    if kind is NetworkKind.SEGMENTER:
        tensors = {name: value.half().float() for name, value in tensors.items()}
    run.mkdir()
    save_tensors(run / WEIGHTS_FILE, tensors, {})
    (run / RUN_FILE).write_text(info.to_json(None))


def write_runs(regressor: NetworkKind, folder: Path, size: dict[str, Any], *others: NetworkKind) -> Path:
    for kind in (NetworkKind.DENOISER, regressor, NetworkKind.SEGMENTER, *others):
        write_run(kind, folder / kind, size)
    return folder


@pytest.fixture(scope="session")
def dense_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks without one of progression."""
    return write_runs(NetworkKind.DENSE_REGRESSOR, tmp_path_factory.mktemp("dense"), SMALL)


@pytest.fixture(scope="session")
def pool_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks with one of progression."""
    folder = tmp_path_factory.mktemp("pool")
    return write_runs(NetworkKind.ATTENTION_POOL_REGRESSOR, folder, LEAST, NetworkKind.SLICE_PROGRESSION)


@pytest.fixture(scope="session")
def least_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of one level, with one of progression."""
    folder = tmp_path_factory.mktemp("least")
    return write_runs(NetworkKind.DENSE_REGRESSOR, folder, LEAST, NetworkKind.SLICE_PROGRESSION)


@pytest.fixture(scope="session")
def volume_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A progression network on volumes, in a folder of its own."""
    return write_volume_run(tmp_path_factory.mktemp("volume") / "progression")


@pytest.fixture(scope="session")
def place_told(volume_run: Path, make_once: Callable[..., Path]) -> dict[str, Any]:
    """What was printed of the bundle that holds that network alone."""

    def export(folder: Path) -> None:
        folder.mkdir()
        (folder / "printed").write_text(export_told(volume_run, folder / "place", 4), encoding="utf-8")

    record: dict[str, Any] = json.loads((make_once("placed", export) / "printed").read_text().splitlines()[-1])
    return record


@pytest.fixture(scope="session")
def place_bundle(place_told: dict[str, Any]) -> Path:
    return Path(place_told["out"])


def export_told(runs: Path, out: Path, max_batch: int) -> str:
    """What `tumorcast export --json` printed of the bundle it made."""
    from tumorcast.cli.main import app

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        arguments = ["export", str(runs), "--out", str(out), "--max-batch", str(max_batch), "--json"]
        app(arguments, standalone_mode=False)
    return printed.getvalue()


@pytest.fixture(scope="session")
def dense_told(dense_runs: Path, make_once: Callable[..., Path]) -> dict[str, Any]:
    """What was printed of the bundle for batches of 16."""

    def export(folder: Path) -> None:
        folder.mkdir()
        printed = export_told(dense_runs, folder / "dense", 16)
        (folder / "printed").write_text(printed, encoding="utf-8")

    printed = (make_once("exported", export) / "printed").read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return record


@pytest.fixture(scope="session")
def dense_bundle(dense_told: dict[str, Any]) -> Path:
    return Path(dense_told["out"])


@pytest.fixture(scope="session")
def single_bundle(pool_runs: Path, make_once: Callable[..., Path]) -> Path:
    """Exported for batches of one, the least there is."""
    return make_once("single", lambda out: export_told(pool_runs, out, 1))


def declared(bundle: Path, max_batch: int, out: Path) -> Path:
    """A copy whose manifest declares another largest batch; its graphs take any (test_export.py)."""
    shutil.copytree(bundle, out)
    write_manifest(out, read_manifest(out).model_copy(update={"max_batch": max_batch}))
    return out


@pytest.fixture(scope="session")
def pool_bundle(single_bundle: Path, make_once: Callable[..., Path]) -> Path:
    return make_once("pool", lambda out: declared(single_bundle, 16, out))


@pytest.fixture(scope="session", params=["dense", "attention pool"])
def shaken_bundle(request: pytest.FixtureRequest) -> Path:
    """Each of the two."""
    bundle: Path = request.getfixturevalue("dense_bundle" if request.param == "dense" else "pool_bundle")
    return bundle


SHAKEN_GRAPHS = [("dense", g) for g in IMAGE_GRAPHS] + [("pool", g) for g in (*IMAGE_GRAPHS, Graph.PROGRESS)]


@pytest.fixture(scope="session", params=SHAKEN_GRAPHS, ids="-".join)
def shaken_graph(request: pytest.FixtureRequest) -> tuple[Path, Graph]:
    """Each graph of each of the two, and its bundle."""
    name, graph = request.param
    return request.getfixturevalue(f"{name}_bundle"), graph


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory, make_once: Callable[..., Path]) -> Path:
    """A bundle of networks of one level, with graphs for boxes, and without one of progression."""

    def export(out: Path) -> None:
        from tumorcast.engines.export import ExportSettings
        from tumorcast.engines.make import make_bundle

        runs = write_runs(NetworkKind.DENSE_REGRESSOR, tmp_path_factory.mktemp("boxed"), LEAST)
        make_bundle([runs], out, ExportSettings(max_batch=4, boxes=True), None, depth=CheckDepth.QUICK)

    return make_once("boxed", export)


@pytest.fixture(scope="session")
def gpu_target() -> SessionTarget:
    """A batch of 4 on a GPU that is not here."""
    gpu = Gpu(1, "NVIDIA H100 80GB HBM3", "sm90", "570.86.15", 80 * 2**30, 79 * 2**30)
    return SessionTarget(Provider.CUDA, gpu, 4)
