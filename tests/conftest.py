"""What the tests share: the real data where it is, and tiny networks and cohorts that are quick to make."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tumorcast.records import Contrast, RadiotherapyCourse, Session, Treatment

SHARED = Path(__file__).parents[2] / "shared" / "data"
SIZE = 64


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; without it a test is skipped, and in CI it fails."""
    if not SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{SHARED} is missing, and CI must test on real data")
        pytest.skip(f"{SHARED} is missing: no real data on this machine")
    return SHARED


def blob_session(patient_id: str, session_id: str, day: float, radius: float, contrasts: int = 4) -> Session:
    """A round brain of radius 24 px with a round bright tumour off its centre, in three slices."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    brain = np.hypot(rows - 32, columns - 32) < 24
    tumour = np.hypot(rows - 32, columns - 40) < radius
    image = np.where(tumour, 0.8, np.where(brain, 0.0, -1.0)).astype(np.float32)
    stack = [3, contrasts, 1, 1]
    area = np.full(3, tumour.sum() * 16.0)
    return Session(
        patient_id=patient_id,
        session_id=session_id,
        day=day,
        contrasts=tuple(Contrast)[:contrasts],
        images=np.tile(image, stack),
        labels=np.tile(np.where(tumour, 3, 0).astype(np.uint8), (3, 1, 1)),
        brain=np.tile(brain, (3, 1, 1)),
        area_mm2=area,
        brain_mm2=np.full(3, brain.sum() * 16.0),
        source_slice=np.array([10, 11, 12]),
        affine=np.diag([-4.0, -4.0, 5.0, 1.0]),
        volume_mm3=float(area.sum() * 5),
        source={"slice_area_mm2": [0.0] * 10 + area.tolist(), "grid": {"size": [SIZE, SIZE, 13]}},
    )


@pytest.fixture(scope="session")
def blob() -> Callable[..., Session]:
    """`blob_session`, for tests that make cohorts of their own."""
    return blob_session


@pytest.fixture(scope="session")
def launch() -> Callable[..., list[str]]:
    """The words before a script that start it on so many MPI ranks, by default through mpi4py.

    mpirun is the one beside this Python, or on the path; without one a test is skipped, and in CI it fails.
    """
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mpirun is missing, and CI must test on real MPI: bin/setup installs it")
        pytest.skip("mpirun is missing on this machine; tumorcast[mpi] has one")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    words = ["env", *(f"{name}={value}" for name, value in as_root.items()), found, "--oversubscribe", "-n"]

    def started(ranks: int, *, through: tuple[str, ...] = ("-m", "mpi4py")) -> list[str]:
        return [*words, str(ranks), sys.executable, "-B", *through]

    return started


@pytest.fixture
def read_only() -> Iterator[Callable[..., list[str]]]:
    """Words before a command that start it where folders cannot be written to, whoever runs the tests.

    Modes stop all but root, whom a mount stops. Where root may not mount, a test is skipped, and in CI it fails.
    """
    closed: list[Path] = []

    def started(*folders: Path) -> list[str]:
        if os.geteuid():
            for folder in folders:
                closed.append(folder)
                folder.chmod(0o555)
            return []
        mounts = [f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}'" for folder in folders]
        words = ["unshare", "-m", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]
        try:
            subprocess.run([*words, "true"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as fault:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{fault}: CI must test on folders that cannot be written to")
            pytest.skip(f"{fault}: root cannot be kept from writing here")
        return words

    yield started
    for folder in closed:
        folder.chmod(0o755)


@pytest.fixture(scope="session")
def blob_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort file of two patients with growing blobs, three scans each, and one patient without tumour."""
    from tumorcast.data.cohort import write_cohort

    path = tmp_path_factory.mktemp("blobs") / "cohort.h5"
    sessions = [
        blob_session(patient, f"{k:03d}", 60.0 * k, radius + k)
        for patient, radius in (("A", 4.0), ("B", 6.0))
        for k in range(3)
    ]
    sessions.append(blob_session("C", "000", 0.0, 0.0))
    treatments = {"B": Treatment((RadiotherapyCourse(10.0, 52.0),))}
    write_cohort(path, sessions, treatments, image_size=SIZE, contrasts=tuple(Contrast), config={})
    return path


@pytest.fixture(scope="session")
def tiny_model(blob_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small networks, trained for a few steps: good for nothing but running the code."""
    from tumorcast.settings import NetworkKind, TrainSettings
    from tumorcast.training.train import train

    folder = tmp_path_factory.mktemp("model")
    tiny = {"channel_mult": (1, 1), "res_blocks": 1, "attention_resolutions": ()}
    for kind in (NetworkKind.DENOISER, NetworkKind.DENSE_REGRESSOR, NetworkKind.SEGMENTER):
        settings = TrainSettings(steps=4, batch=2, seed=len(kind))
        train(kind, blob_cohort, folder / kind, settings, architecture=tiny)
    return folder


@pytest.fixture(scope="session")
def random_bundle(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine bundle of the small networks, with random weights: after a few steps ε is still so near to zero that
    rounding is a large share of it, and no graph would pass for torch's.

    The halves of the suite that bin/test runs side by side make it once, in the folder it names.
    """
    shared = Path(os.environ.get("TUMORCAST_TEST_SHARED") or tmp_path_factory.mktemp("shaken"))
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "bundle").exists():
            _make_random_bundle(tiny_model, shared)
    return shared / "bundle"


def _make_random_bundle(tiny_model: Path, folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from tumorcast.engines.export import ExportSettings
    from tumorcast.engines.make import make_bundle

    runs, rng = folder / "runs", np.random.default_rng(0)
    shutil.copytree(tiny_model, runs, dirs_exist_ok=True)
    for path in runs.glob("*/weights.safetensors"):
        random = {}
        for name, value in sorted(load_file(path).items()):
            noise = 0.5 * rng.standard_normal(value.shape, np.float32) / max(1, value[0].size) ** 0.5
            random[name] = noise + np.float32(name.endswith("weight") and value.ndim == 1)  # norms stay near one
        save_file(random, path)
    make_bundle([runs], folder / "bundle", ExportSettings(max_batch=4), None)
