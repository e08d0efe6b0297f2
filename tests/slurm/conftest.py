"""SLURM for the tests of the job scripts: a real cluster for some, and commands that answer as SLURM's do for most.

The cluster has three nodes with four false GPUs each, all on this machine. It changes nothing outside its folder: its
daemons have keys, ports, spool and a hosts file of their own.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NODES = ("n1", "n2", "n3")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")
PMIX = Path(
    "/usr/lib/x86_64-linux-gnu/pmix2/lib"
)  # where Debian's SLURM looks for libpmix.so, which only libpmix-dev has
STAND_IN = {"TUMORCAST_PYTHON": str(Path(__file__).with_name("stand_in.sh"))}
FAKE = Path(__file__).with_name("fake_slurm.py")
FAKED = ("sbatch", "srun", "scontrol", "scancel", "squeue")
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SwitchType=switch/none
TmpFS={folder}/tmp/%n
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=600
InactiveLimit=0
SlurmdParameters=config_overrides
PropagateResourceLimitsExcept=MEMLOCK
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {hardware}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {hardware}
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} {hardware}
PartitionName=gpu Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP
"""
HARDWARE = "CPUs=4 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:h100:4 State=UNKNOWN"


@dataclass
class Job:
    """A job as `scontrol show job` tells it."""

    state: str
    reason: str
    code: int
    restarts: int


@dataclass
class Slurm:
    """SLURM by its commands; `folder` has all that is its own."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of every command: nothing of a job around this test."""
        return {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TUMORCAST_"))}

    def ask(self, *command: str, at: Path | None = None, variables: dict[str, str] | None = None) -> str:
        """What a command of SLURM tells, run in the folder `at`; empty where it fails."""
        environment = self.environment | (variables or {})
        ended = subprocess.run(command, cwd=at, env=environment, stdout=subprocess.PIPE, timeout=60, check=False)
        return ended.stdout.decode().strip()

    def submit(self, *command: str | Path, at: Path, variables: dict[str, str] | None = None) -> str:
        """The job that sbatch makes of the command, submitted from the folder `at`."""
        job = self.ask("sbatch", "--parsable", *map(str, command), at=at, variables=variables)
        assert job, "sbatch: refused, see stderr"
        return job

    def await_that(self, condition: Callable[[], bool], seconds: float) -> None:
        """Until the condition holds; fails the test when it does not in so long."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited for {seconds:g} s in vain")
            time.sleep(0.2)

    def job(self, number: str) -> Job:
        """How the job is now."""
        told = self.ask("scontrol", "show", "job", "-o", number)
        values = dict(word.split("=", 1) for word in told.split() if "=" in word)
        code, _, killed_by = values["ExitCode"].partition(":")
        return Job(values["JobState"], values["Reason"], int(code) or 128 * (killed_by != "0"), int(values["Restarts"]))

    def ended(self, number: str, seconds: float) -> Job:
        """The job once it has ended. A requeued one need not wait for the two minutes that SLURM lets it."""
        hastened = 0

        def is_through() -> bool:
            nonlocal hastened
            job = self.job(number)
            if job.reason == "BeginTime" and job.restarts > hastened:
                hastened = job.restarts
                # Not now: slurmd takes a start in the second of the last end for the one it was told to end.
                self.ask("scontrol", "update", f"jobid={number}", "starttime=now+2")
            return job.state in ENDS

        self.await_that(is_through, seconds)
        return self.job(number)


@dataclass
class Cluster(Slurm):
    """The daemons of a real cluster."""

    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of every command: where the cluster is, and nothing of a job around this test."""
        return super().environment | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons and wait until every node is idle."""
        self._write_files()
        munge = self.folder / "munge"
        places = [f"--{name}={munge / name}" for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")]
        self._daemon("munged", "--foreground", "--force", *places)
        self.await_that((munge / "socket").exists, 20)
        self._daemon("slurmctld", "-D")
        for node in NODES:
            own = f"mount --bind {self.folder}/hosts /etc/hosts && mount --bind {self.folder}/pmix {PMIX}"
            script = f"hostname {node} && {own} && mount -t tmpfs tmpfs /dev/shm && exec slurmd -D -N {node}"
            self._daemon("unshare", "--uts", "--mount", "--ipc", "bash", "-c", script)
        self.await_that(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D") == "3", 60)

    def stop(self) -> None:
        """End every job, then the daemons, the last first; only what was started here."""
        self.ask("scancel", "--user", "root")
        deadline = time.monotonic() + 60
        while self.ask("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _daemon(self, *command: str) -> None:
        with (self.folder / "log" / f"{command[0]}.out").open("ab") as out:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))

    def _write_files(self) -> None:
        for name in ("state", "log", "dev", "munge", *(f"spool/{n}" for n in NODES), *(f"tmp/{n}" for n in NODES)):
            (self.folder / name).mkdir(parents=True)
        shutil.copytree(PMIX, self.folder / "pmix")
        (self.folder / "pmix" / "libpmix.so").symlink_to("libpmix.so.2")
        key = self.folder / "munge" / "key-file"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for gpu in range(4):
            subprocess.run(["mknod", "-m", "666", self.folder / "dev" / f"gpu{gpu}", "c", "1", "3"], check=True)
        hosts = Path("/etc/hosts").read_text(encoding="utf-8")
        (self.folder / "hosts").write_text(f"{hosts}\n127.0.0.1 {' '.join(NODES)}\n", encoding="utf-8")
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, folder=self.folder, ports=free_ports(4), hardware=HARDWARE)
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        gpus = f"NodeName=n[1-3] Name=gpu Type=h100 File={self.folder}/dev/gpu[0-3]\n"
        (self.folder / "gres.conf").write_text(gpus, encoding="utf-8")


@dataclass
class FakeSlurm(Slurm):
    """Commands of fake_slurm.py in place of SLURM's; `calls` are their command lines."""

    @property
    def environment(self) -> dict[str, str]:
        """Of every command: where the fake commands are, first on the path."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return super().environment | {"PATH": path, "FAKE_SLURM": str(self.folder / "jobs")}

    @property
    def calls(self) -> list[str]:
        """Every call of a command, in their order."""
        return (self.folder / "jobs" / "calls.txt").read_text(encoding="utf-8").splitlines()

    def start(self) -> None:
        """Lay the commands down."""
        (self.folder / "jobs").mkdir()
        (self.folder / "bin").mkdir()
        for name in FAKED:
            command = self.folder / "bin" / name
            command.write_text(f"#!{sys.executable} -S\n{FAKE.read_text(encoding='utf-8')}", encoding="utf-8")
            command.chmod(0o755)

    def stop(self) -> None:
        """Cancel every job and wait for its end."""
        jobs = [path.stem for path in (self.folder / "jobs").glob("*.json")]
        for job in jobs:
            self.ask("scancel", job)
        self.await_that(lambda: all(self.job(job).state in ENDS for job in jobs), 20)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def missing() -> Sequence[str]:
    """What a cluster needs and this machine lacks."""
    found = [name for name in PROGRAMS if shutil.which(name) is None]
    found += [] if PMIX.exists() else [str(PMIX)]
    return found + ([] if os.geteuid() == 0 else ["root's rights"])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster; where it cannot be, a test is skipped, and in CI it fails."""
    if missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{', '.join(missing())} missing, and CI must test on real SLURM: .ci/run installs it")
        pytest.skip(f"{', '.join(missing())} missing: no SLURM cluster on this machine")
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def limited(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A job of more work than its limit of a minute, submitted first, as it takes longest; and where it was."""
    at = tmp_path_factory.mktemp("limited")
    limit = ("--nodes=1", "--gres=gpu:1", "--cpus-per-task=1", "--time=1", "--signal=B:USR1@25")
    job = ("scans", "--out", "out", "--model", "run", "--horizon-days", "60")
    work = {"STAND_IN_UNITS": "42", "STAND_IN_PREPARE": "1"}
    return cluster.submit(*limit, ROOT / "slurm" / "forecast_cohort.sh", *job, at=at, variables=STAND_IN | work), at


@pytest.fixture(scope="module")
def fake_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeSlurm]:
    """Fake commands of SLURM, and the jobs that tests submit to them."""
    made = FakeSlurm(tmp_path_factory.mktemp("fake-slurm"))
    made.start()
    yield made
    made.stop()
