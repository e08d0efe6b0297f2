"""`tumorcast export` as a user calls it, where nothing is made; what it makes is told in test_export.py."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engines.conftest import declared
from tumorcast.cli.main import app, export_main, main
from tumorcast.engines import export, parity
from tumorcast.engines.bundle import Bundle, read_manifest
from tumorcast.engines.model import ModelSet, load_model_set
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.settings import Precision

Ended = Callable[..., tuple[int, str]]


@pytest.fixture
def ended(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ended:
    """The exit code and what was told, of `tumorcast …` in this process."""

    def of(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tumorcast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(str(end.value.code)), capsys.readouterr().err

    return of


@pytest.fixture
def places(dense_bundle: Path, dense_runs: Path, tmp_path: Path) -> dict[str, Path]:
    return {"BUNDLE": dense_bundle, "RUNS": dense_runs, "NEW": tmp_path / "new"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("BUNDLE", "give --out BUNDLE to export RUN folders, or --check full or --build"),
        ("BUNDLE --check all", "--check all: allowed are quick, full"),
        ("BUNDLE BUNDLE --check full", "2 folders given, but --check and --build take one bundle"),
        ("BUNDLE --build openvino", "--build openvino: only tensorrt is built ahead"),
        ("BUNDLE --check quick --provider npu", "--provider npu: allowed are"),
        ("BUNDLE --check quick --device cuda:0", "--device cuda:0: --provider cpu takes cpu"),
        ("BUNDLE --check quick --provider torch", "--provider torch"),
        ("RUNS --out BUNDLE", "exists already; give --out a new folder"),
        ("RUNS --out NEW --precision fp8", "--precision fp8: allowed are fp32, fp16, bf16"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: str, message: str, places: dict[str, Path], ended: Ended) -> None:
    code, told = ended("export", *(places.get(word, word) for word in arguments.split()))
    assert (code, message in told) == (2, True), (code, told)
    assert not places["NEW"].exists()


@pytest.mark.parametrize("options", [["--build", "tensorrt"], ["--check", "full", "--provider", "cuda"]])
def test_what_needs_a_gpu_ends_with_4(options: list[str], dense_bundle: Path, ended: Ended) -> None:
    code, told = ended("export", dense_bundle, *options)
    assert code == 4, told
    assert "install tumorcast[gpu] in place of tumorcast[cpu]" in told


def test_a_forecast_on_a_provider_that_is_missing_ends_with_4(
    random_bundle: Path, blob_cohort: Path, tmp_path: Path, ended: Ended
) -> None:
    options = ["--model", random_bundle, "--relative-change", 0.1, "--provider", "cuda", "--out", tmp_path / "m.h5"]
    code, told = ended("forecast", blob_cohort, *options)
    assert code == 4, told
    assert "provider cuda: the onnxruntime installed here offers" in told
    assert list(tmp_path.iterdir()) == []


def test_tumorcast_export_is_the_same_command(
    dense_runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tumorcast-export", str(dense_runs), "--check", "quick"])
    with pytest.raises(SystemExit, match="3"):
        export_main()
    assert f"{dense_runs}: holds RUN folders and no bundle; make one with --out" in capsys.readouterr().err


def test_what_was_exported_is_told(dense_bundle: Path, dense_told: dict[str, Any]) -> None:
    manifest = read_manifest(dense_bundle)
    assert dense_told == {
        "out": str(dense_bundle),
        "precision": "fp32",
        "check": "full",
        "checked_with": manifest.checked_with,
        "parity": {name: part.model_dump() for name, part in manifest.parity.items()},
    }
    assert manifest.max_batch == 16


def test_what_was_checked_is_told(
    dense_bundle: Path,
    dense_told: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same outputs within the same limits; the differences themselves hang on torch's threads."""
    monkeypatch.setattr(parity, "TIMES", 2)
    app(["export", str(dense_bundle), "--check", "full", "--json"], standalone_mode=False)
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (again["bundle"], again["provider"]) == (str(dense_bundle), "cpu")
    assert {name: found["limit"] for name, found in again["parity"].items()} == {
        name: found["limit"] for name, found in dense_told["parity"].items()
    }
    assert all(found["difference"] <= found["limit"] for found in again["parity"].values())


def test_a_quick_check_is_of_one_slice_at_two_levels(
    dense_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    outputs = parity._outputs

    def noted(engine: object, reference: object, part: parity.Inputs, t: int) -> object:
        asked.append((len(part.images), t))
        return outputs(engine, reference, part, t)

    monkeypatch.setattr(parity, "_outputs", noted)
    app(["export", str(dense_bundle), "--check", "quick", "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert asked == [(1, 0), (1, 299)]
    assert told["check"] == "quick"
    assert told["parity"].keys() == read_manifest(dense_bundle).parity.keys()


@pytest.mark.parametrize("most", [1, 2])
def test_the_smallest_batches_are_exported_and_run(
    most: int, single_bundle: Path, pool_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of images goes through a bundle, cut into the batches that its graphs take.

    For batches of two the same is exported as for one, but for what the manifest says.
    """
    model = load_model_set([pool_runs])
    assert rows_declared(model, most) == rows_declared(model, 1)
    bundle = Bundle.open(single_bundle if most == 1 else declared(single_bundle, most, tmp_path / "two"))
    assert bundle.manifest.max_batch == most
    engine, reference = OnnxEngine(bundle), TorchEngine(model)
    assert engine.target.rows == most
    channels, side = len(engine.info.contrasts), engine.info.image_size
    monkeypatch.setattr(parity, "TIMES", 2)
    found = parity.compare(engine, reference, Precision.FP32, [parity.noise(channels, side)])
    parity.check(found, str(bundle.folder))
    three = np.random.default_rng(0).standard_normal((3, channels, side, side), np.float32)
    assert np.abs(engine.segment(three) - reference.segment(three)).max() < 1e-4


def rows_declared(model: ModelSet, max_batch: int) -> dict[str, object]:
    """All that an export is told of batches, by graph and input: rows of the example, and the least and the most."""
    return {
        f"{graph}.{name}": [tuple(example[name].shape), *((at, dim.min, dim.max) for at, dim in dims.items())]
        for graph, (_, example, dynamic) in export._exported(model, max_batch).items()
        for name, dims in dynamic.items()
    }
