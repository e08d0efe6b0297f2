"""`tumorcast doctor`: what it says of fakes, and of this machine with a small bundle."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tumorcast.cli.main import app
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines import parity
from tumorcast.engines.protocol import EngineWrapper
from tumorcast.errors import EngineError, UsageError
from tumorcast.running import doctor
from tumorcast.running.doctor import Check, CheckStatus
from tumorcast.settings import Provider

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here asks how fast it is; how near at every noise level was seen when the bundle was made."""
    monkeypatch.setattr(doctor, "REPEATS", 1)
    monkeypatch.setattr(parity, "TIMES", 3)


def run(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments), "--json"])
    record: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return result.exit_code, {check["name"]: check for check in record["checks"]} | {"": record}


def installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(package: str) -> str:
        if package in versions:
            return versions[package]
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", version)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what nvidia-smi prints."""

    def printing(text: str) -> None:
        fake = tmp_path / "nvidia-smi"
        fake.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return printing


@pytest.mark.slow
def test_a_cpu_passes_with_a_small_bundle(random_bundle: Path) -> None:
    code, checks = run("--model", random_bundle)
    assert code == 0, checks
    record = checks[""]
    assert (record["provider"], record["ok"]) == ("cpu", True)
    assert all(set(check) == {"name", "status", "told", "remedy"} for check in record["checks"])
    for name in ("model", "provider", "parity", "speed 1", "speed 8"):
        assert checks[name]["status"] == "ok", checks[name]
    assert "images/s" in checks["speed 8"]["told"]
    assert "allowed" in checks["parity"]["told"]
    assert "graphs encode, guided, size, segment, checked with" in checks["model"]["told"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="needs a machine without GPU")
def test_a_missing_provider_ends_with_4_and_a_remedy(random_bundle: Path) -> None:
    code, checks = run("--model", random_bundle, "--provider", "cuda")
    assert (code, checks[""]["ok"]) == (4, False)
    assert checks["provider"]["status"] == checks["gpu"]["status"] == "FAILED"
    assert "tumorcast[gpu]" in checks["provider"]["remedy"]
    assert checks["parity"]["told"] == "not checked: provider failed"
    assert checks["numpy"]["status"] == checks["memory"]["status"] == "ok"


def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path) -> None:
    found = doctor.check_engine(doctor.EngineRequest(tmp_path), lambda done, total: None)
    assert [(check.name, check.status) for check in found] == [
        ("model", CheckStatus.FAILED),
        ("parity", CheckStatus.ABSENT),
    ]
    assert "`tumorcast export`" in found[0].remedy and "demo128" in found[0].remedy
    assert doctor.failed(found, Provider.CPU)


def test_a_changed_file_of_the_bundle_is_told(random_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(random_bundle, copy)
    (copy / "guided.onnx").write_bytes(b"other")
    (check,) = doctor.guarded("model", lambda: doctor.check_model(copy))
    assert check.status is CheckStatus.FAILED
    assert check.remedy == "export the bundle again"


def test_without_torch_the_cpu_is_not_checked(random_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (check,) = doctor.check_parity(doctor.EngineRequest(random_bundle), lambda done, total: None)
    assert (check.status, check.message) == (CheckStatus.ABSENT, "not checked: torch is not installed")


class Off(EngineWrapper):
    """An engine whose numbers are another's, times `factor`: stands in for a GPU that computes otherwise."""

    def __init__(self, bundle: Path, factor: float) -> None:
        super().__init__(doctor.EngineRequest(bundle).open(2))
        self.factor = np.float32(factor)
        self.provider, self.device = Provider.CUDA, "cuda:0 fake"

    def guided_step(self, x: Array, step: Step, previous_eps: Array, guidance: StepGuidance) -> tuple[Array, Array]:
        x_next, eps = super().guided_step(x, step, previous_eps, guidance)
        return x_next * self.factor, eps


@pytest.fixture
def fake_gpu(random_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], doctor.EngineRequest]:
    """No torch, and a provider cuda whose images are off by a factor."""
    opened = doctor.EngineRequest.open

    def computing(factor: float) -> doctor.EngineRequest:
        gpu = Off(random_bundle, factor)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        monkeypatch.setattr(
            doctor.EngineRequest,
            "open",
            lambda self, rows: gpu if self.provider is Provider.CUDA else opened(self, rows),
        )
        return doctor.EngineRequest(random_bundle, Provider.CUDA)

    return computing


@pytest.mark.slow
def test_without_torch_a_gpu_is_held_against_the_cpu(fake_gpu: Callable[[float], doctor.EngineRequest]) -> None:
    asked = fake_gpu(1.0)
    found = doctor.check_engine(asked, lambda done, total: None)
    speeds = [f"speed {batch}" for batch in (1, 8, 16)]
    assert [check.name for check in found] == ["model", "provider", "parity", *speeds]
    assert {check.status for check in found} == {CheckStatus.OK}
    message = found[2].message
    assert message.startswith("not checked: torch is not installed; provider cpu instead: worst ")


@pytest.mark.slow
def test_a_gpu_that_computes_otherwise_fails(fake_gpu: Callable[[float], doctor.EngineRequest]) -> None:
    asked = fake_gpu(1.01)
    found = doctor.guarded("parity", lambda: doctor.check_parity(asked, lambda done, total: None))
    assert found[0].status is CheckStatus.FAILED
    assert "guided.x_next is off by" in found[0].message
    assert "provider cpu" in found[0].message
    assert doctor.failed(found, Provider.CUDA)


def test_gpus_are_listed(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi(
        "NVIDIA H100 80GB HBM3, 9.0, 570.86.15, 81559, 81000, GPU-1f\nNVIDIA L4, 8.9, 570.86.15, 23034, 22000, GPU-2e"
    )
    found = doctor.check_gpus(needed=True)
    assert [(check.name, check.status) for check in found] == [("gpu 0", CheckStatus.OK), ("gpu 1", CheckStatus.OK)]
    assert found[0].message == "NVIDIA H100 80GB HBM3, sm90, driver 570.86.15, 84.9 of 85.5 GB free"


def test_words_in_place_of_a_list_are_no_gpu(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi("NVIDIA-SMI has words for its own troubles")
    assert [check.status for check in doctor.check_gpus(needed=False)] == [CheckStatus.ABSENT]
    assert [check.status for check in doctor.check_gpus(needed=True)] == [CheckStatus.FAILED]


def test_both_onnxruntimes_are_a_fault_of_all_but_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})
    found = doctor.check_packages()
    (bad,) = (check for check in found if check.status is CheckStatus.FAILED)
    assert bad.name == "onnxruntime-gpu"
    assert "pip uninstall onnxruntime onnxruntime-gpu" in bad.remedy
    assert doctor.failed(found, Provider.CUDA)
    assert not doctor.failed(found, Provider.TORCH)


def test_one_onnxruntime_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {"onnxruntime-gpu": "1.32.0", "tensorrt-cu12": "10.9"})
    found = {check.name: check for check in doctor.check_packages()}
    assert (found["onnxruntime-gpu"].status, found["onnxruntime"].status) == (CheckStatus.OK, CheckStatus.ABSENT)
    assert found["tensorrt"].message == "10.9"


@pytest.fixture
def built_for_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime-gpu for CUDA 13 that has both providers, and nothing to load."""
    monkeypatch.setattr(doctor, "cuda_of_build", lambda: "13.0")
    names = [f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU")]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    monkeypatch.setattr(doctor, "make_loadable", lambda _: None)


@pytest.mark.parametrize(
    ("driver", "status", "words"),
    [
        ((13, 1), CheckStatus.OK, "knows CUDA 13.1, ONNX Runtime built for 13.0"),
        ((12, 8), CheckStatus.FAILED, "knows CUDA 12.8 and ONNX Runtime was built for 13.0"),
        (None, CheckStatus.FAILED, "libcuda.so.1 does not load"),
    ],
)
def test_the_driver_is_held_against_the_build(
    driver: tuple[int, int] | None,
    status: CheckStatus,
    words: str,
    built_for_13: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "cuda_of_driver", lambda: driver)
    (check,) = doctor.check_driver(needed=True)
    assert check.status is status
    assert words in check.message
    assert bool(check.remedy) == doctor.failed([check], Provider.CUDA) == (status is CheckStatus.FAILED)


def test_a_library_that_does_not_load_is_told_once(
    built_for_13: None, random_bundle: Path, nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do, and nothing sends to another check in a circle."""
    nvidia_smi("NVIDIA H100 80GB HBM3, 9.0, 580.65.06, 81559, 81000, GPU-1f")
    monkeypatch.setattr(doctor, "cuda_of_driver", lambda: (13, 0))
    monkeypatch.setattr("tumorcast.engines.gpu_libraries.provider_libraries", lambda _: ["libcublasLt.so.99"])
    code, checks = run("--model", random_bundle, "--provider", "cuda")
    assert code == EngineError.exit_code
    assert checks["libraries"]["status"] == "FAILED"
    assert checks["libraries"]["told"].startswith("libcublasLt.so.99: cannot open shared object file")
    assert "tumorcast[gpu]" in checks["libraries"]["remedy"]
    assert checks["provider"]["told"] == checks["parity"]["told"] == "not checked: libraries failed"
    assert not any("doctor" in check["remedy"] for name, check in checks.items() if name)


def test_rounding_that_the_user_asked_for_is_a_fault_of_gpus_alone() -> None:
    found = doctor.check_rounding({"NVIDIA_TF32_OVERRIDE": "1"})
    assert doctor.failed(found, Provider.TENSORRT)
    assert not doctor.failed(found, Provider.CPU)
    assert doctor.check_rounding({})[0].status is CheckStatus.OK


def test_a_part_of_a_gpu_that_is_not_there_is_told(
    nvidia_smi: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi("NVIDIA H100 80GB HBM3, 9.0, 580.65.06, 81559, 81000, GPU-1f")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7a01")
    (check,) = doctor.check_gpus(needed=True)
    assert check.message == "none found of CUDA_VISIBLE_DEVICES=MIG-7a01"
    assert "nvidia-smi -L" in check.remedy


def test_tensorrt_is_asked_for_one_batch_alone() -> None:
    """It would build an engine for each."""
    assert doctor.batches_of(doctor.EngineRequest(provider=Provider.TENSORRT, batch=32)) == {32}


def test_more_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    (check,) = doctor.check_cores()
    assert check.status is CheckStatus.FAILED
    assert check.remedy.startswith("set OMP_NUM_THREADS=")


def test_faults_become_checks_that_name_no_user_and_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    monkeypatch.setattr("platform.node", lambda: "node17.site")

    def look() -> list[Check]:
        raise EngineError("/scratch/alice/bundle on node17.site: cannot be opened; ask for room")

    (check,) = doctor.guarded("provider", look)
    assert (check.message, check.remedy) == ("/scratch/USER/bundle on HOST: cannot be opened", "ask for room")


def test_a_fault_of_cuda_keeps_its_remedy() -> None:
    def look() -> list[Check]:
        raise EngineError("guided.onnx: cannot be opened on cuda:0: CUDA failure 36: not supported; use another one")

    (check,) = doctor.guarded("provider", look)
    assert check.message == "guided.onnx: cannot be opened on cuda:0: CUDA failure 36: not supported"
    assert check.remedy == "use another one"


def test_a_place_that_cannot_be_written_fails_where_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda place, mode: False)
    for must, status in ((True, CheckStatus.FAILED), (False, CheckStatus.OK)):
        (check,) = doctor.check_disk("engine cache", tmp_path / "not" / "yet", must_write=must)
        assert check.status is status
        assert "cannot be written" in check.message


def test_a_device_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--device cuda:0"):
        doctor.EngineRequest(tmp_path, Provider.CPU, "cuda:0")


def test_the_slurm_script_says_that_srun_is_needed(tmp_path: Path) -> None:
    script = ROOT / "slurm" / "gpu_selftest.sh"
    bash = shutil.which("bash")
    assert bash is not None
    result = subprocess.run([bash, script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "srun is needed" in result.stderr


def test_the_slurm_script_runs_doctor_in_a_step(tmp_path: Path) -> None:
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "4"}
    command = [ROOT / "slurm" / "gpu_selftest.sh", "tensorrt", "my bundle"]
    printed = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=True).stdout
    step = "--ntasks=1 --cpus-per-task=4 bin/tumorcast doctor --provider tensorrt --json --model my bundle\n"
    assert printed == step
