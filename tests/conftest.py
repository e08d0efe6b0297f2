"""What the tests share: the real data where it is, and tiny networks and cohorts that are quick to make."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba  # before our kernels: where OMP_NUM_THREADS is 1 they would give it one thread, and tests ask for two
import numpy as np
import pytest

from tests.golden.models import unpack_bundle, write_runs
from tumorcast.records import Contrast, RadiotherapyCourse, Session, SessionVolume, Treatment

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


def ball_volume(radius_mm: float, *, centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> SessionVolume:
    """A round brain of 44 mm with a round bright tumour round `centre_mm` from its middle, z, y, x; 2 mm voxels."""
    shape = (48, 56, 52)
    z, y, x = ((np.arange(side) - side / 2 + 0.5) * 2.0 for side in shape)
    away = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    own = (z[:, None, None] - centre_mm[0]) ** 2 + (y[:, None] - centre_mm[1]) ** 2 + (x - centre_mm[2]) ** 2
    brain, tumour = away < 44.0**2, own < radius_mm**2
    grey = np.where(tumour, 230, np.where(brain, 128, 0)).astype(np.uint8)
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    return SessionVolume(np.stack([grey] * 4), np.where(tumour, 3, 0).astype(np.uint8), brain, affine, 2.0)


@pytest.fixture(scope="session")
def ball() -> Callable[..., SessionVolume]:
    """`ball_volume`, for tests that need volumes."""
    return ball_volume


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
def one_scan_cohort(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A cohort file of so many patients of one scan, each with a larger blob than the one before."""
    from tumorcast.data.cohort import write_cohort

    def written(patients: int) -> Path:
        path = tmp_path_factory.mktemp("cohort") / "cohort.h5"
        sessions = [blob_session(f"P{k}", "000", 0.0, 4.0 + 0.5 * k) for k in range(patients)]
        write_cohort(path, sessions, {}, image_size=SIZE, contrasts=tuple(Contrast), config={})
        return path

    return written


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
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN folders of small random networks: good for nothing but running the code."""
    return write_runs(tmp_path_factory.mktemp("model") / "runs")


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden engine bundle, of the networks of `tiny_model`."""
    return unpack_bundle(tmp_path_factory.mktemp("golden") / "bundle")


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`make_once(name, make)`: the folder `name` that `make` made, in one of the processes that run the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.made"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session", autouse=True)
def threads_as_told() -> None:
    """As many threads as OMP_NUM_THREADS says, in numba and in torch, though numba may have more where a test asks."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if not told.isdecimal():
        return
    import torch
    from numba.np.ufunc.parallel import _launch_threads

    _launch_threads()  # which gives torch as many (findings/threads_of_a_neighbour.sh)
    numba.set_num_threads(min(int(told), numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(int(told))


@pytest.fixture(scope="session")
def machine_code(make_once: Callable[[str, Callable[[Path], object]], Path]) -> None:
    """The kernels of a fit are compiled by one process, for half a minute of a new checkout, and not by each."""
    from tumorcast.growth.fit import fit_growth
    from tumorcast.growth.settings import FitSettings
    from tumorcast.records import SizeSeries

    def fit(_: Path) -> None:
        series = SizeSeries("P", "area_mm2", np.arange(4) * 30.0, np.array([400.0, 500, 550, 700]), Treatment())
        fit_growth(series, FitSettings(replicates=1, pilots=1))

    make_once("machine-code", fit)


FITTING = {"cli", "evaluation", "growth", "mpi", "report", "running", "slurm"}  # folders with tests that fit
FITTING |= {"test_home.py", "test_messages.py", "test_paper_baseline.py", "test_readme.py", "test_wheel.py"}
MARKS_OF_FIXTURES = {
    "cluster": "cluster",
    "launch": "mpi",
    "browser": "browser",
    "dense_bundle": "slow",  # exports take a minute
    "single_bundle": "slow",
    "pool_bundle": "slow",
    "shaken_bundle": "slow",
    "shaken_graph": "slow",
}


# The longest, each of which another process can run: what waits for the bundles of test_onnx_engine.py comes later.
FIRST = (
    "slurm/test_cohort.py",
    "engines/test_onnx_engine.py",
    "faults/test_kill_matrix.py",
    "tests/test_home.py",
    "running/test_forecast_run.py",
    "tests/test_wheel.py",
    "mpi/test_fit_ranks.py",
    "tests/test_readme.py",
)
ON_THE_CLUSTER = tuple(
    f"tests/slurm/test_{name}"
    for name in (
        "cohort.py",
        "engine_faults.py",
        "ranks.py",
        "train.py",
        "jobs.py::test_one_job_runs_every_step_over_the_ranks_it_has_room_for[cluster]",
        "jobs.py::test_a_job_that_hits_its_limit",
    )
)


def group_of(nodeid: str) -> str:
    """The tests that one process runs: those of a file, and all on the cluster, of which there is one."""
    return "cluster" if nodeid.startswith(ON_THE_CLUSTER) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Groups of ours for --dist loadgroup.

    Those that are marked xdist_group are lost without a word by pytest 9.2 with pytest-xdist 3.8 (its issue 1386): each
    process then makes the fixtures of every file, and a cluster.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, and begin with the files that take longest."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for fixture, mark in MARKS_OF_FIXTURES.items():
            if fixture in fixtures:
                item.add_marker(mark)
        if FITTING & set(item.path.parts) and isinstance(item, pytest.Function) and "machine_code" not in fixtures:
            item.fixturenames.insert(0, "machine_code")
        if item.get_closest_marker("cluster") and group_of(item.nodeid) != "cluster":
            raise pytest.UsageError(f"{item.nodeid} needs the cluster: add it to ON_THE_CLUSTER in tests/conftest.py")
    weights: Counter[Path] = Counter()
    for item in items:
        weights[item.path] += 2 * bool(item.get_closest_marker("cluster")) + bool(item.get_closest_marker("slow"))
    places = {name: place for place, name in enumerate(FIRST, -len(FIRST))}
    items.sort(key=lambda item: (places.get("/".join(item.path.parts[-2:]), 0), -weights[item.path]))
