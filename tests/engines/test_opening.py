"""The model that a user named: a path before a shipped name, nothing opened to find it; and what opens it."""

import shutil
from pathlib import Path

import pytest

from tumorcast.cli.forecast_options import A_BUNDLE
from tumorcast.engines.bundle import Bundle
from tumorcast.engines.guarded import GuardedEngine
from tumorcast.engines.locating import MODELS, images_of, locate, locate_all, runs_in, shipped_names
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.opening import EngineChoice, device_index, open_engine
from tumorcast.engines.protocol import ModelImages
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.settings import Provider


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("elsewhere")
def test_a_shipped_model_answers_to_its_name_in_any_folder() -> None:
    assert [locate(Path(name)) for name in shipped_names()] == [MODELS / name for name in shipped_names()]
    assert all(name in A_BUNDLE for name in shipped_names())  # what --help says
    assert images_of(locate(Path("demo128"))) == ModelImages(128, ("t1n", "t1c", "t2w", "t2f"))
    assert Bundle.open(locate(Path("demo128"))).info.image_size == 128


def test_shipped_models_are_whole_bundles_and_small() -> None:
    assert shipped_names() == tuple(sorted(path.name for path in MODELS.iterdir()))
    for name in shipped_names():
        assert Bundle.open(MODELS / name).manifest.parity  # every file has its sum
    bundled = {path.name for path in MODELS.glob("*/*")}
    assert not any(path.name == "run.json" for path in MODELS.rglob("*")) and "weights.safetensors" in bundled
    assert sum(path.stat().st_size for path in MODELS.glob("*/*") if path.is_file()) < 40e6


def test_a_path_wins_over_a_shipped_name(elsewhere: Path, dense_bundle: Path) -> None:
    shutil.copytree(dense_bundle, elsewhere / "demo128")
    assert locate(Path("demo128")) == Path("demo128")
    assert images_of(Path("demo128")).image_size == Bundle.open(dense_bundle).info.image_size


def test_runs_are_found_in_and_below_a_folder(tiny_model: Path, tmp_path: Path) -> None:
    assert [run.name for run in runs_in(tiny_model)] == ["denoiser", "dense-regressor", "segmenter"]
    assert runs_in(tiny_model / "denoiser") == [tiny_model / "denoiser"]
    assert runs_in(tmp_path) == []
    assert images_of(locate(tiny_model)) == images_of(locate(tiny_model / "segmenter"))
    assert images_of(tiny_model) == ModelImages(64, ("t1n", "t1c", "t2w", "t2f"))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("demo182", "demo182: no such file or folder"),
        ("models/demo128", "models/demo128: no such file or folder"),
        ("a_file", "a_file: is a file"),
        ("empty", r"empty: holds no engine bundle \(manifest.json\) .* no RUN \(run.json\)"),
    ],
)
def test_what_is_no_model_is_refused_with_the_names_of_those_shipped(told: str, message: str, elsewhere: Path) -> None:
    (elsewhere / "a_file").touch()
    (elsewhere / "empty").mkdir()
    with pytest.raises(InputError, match=f"{message}.*; give .*{', '.join(shipped_names())}"):
        locate(Path(told))


def test_a_bundle_is_given_alone(dense_bundle: Path, dense_runs: Path) -> None:
    assert locate_all([dense_bundle]) == [dense_bundle]
    with pytest.raises(UsageError, match=f"{dense_bundle}: a bundle"):
        locate_all([dense_runs, dense_bundle])


def test_the_engine_is_what_the_folder_is_for(dense_bundle: Path, dense_runs: Path) -> None:
    engine = open_engine(EngineChoice((dense_bundle,), rows=3))
    assert isinstance(engine, OnnxEngine)
    assert (engine.provider, engine.device, engine.target.rows) == (Provider.CPU, "cpu", 3)
    for folder, provider in ((dense_bundle, Provider.TORCH), (dense_runs, None), (dense_runs, Provider.TORCH)):
        reference = open_engine(EngineChoice((folder,), provider))
        assert isinstance(reference, GuardedEngine) and isinstance(reference.engine, TorchEngine)
        assert (reference.provider, reference.device) == (Provider.TORCH, "cpu")


def test_torch_takes_the_device_that_is_named(dense_bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"cuda:99: .*--device cpu"):
        open_engine(EngineChoice((dense_bundle,), Provider.TORCH, "cuda:99"))


def test_what_does_not_go_together_is_refused(dense_bundle: Path, dense_runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dense: a bundle"):
        open_engine(EngineChoice((dense_runs, dense_bundle)))
    with pytest.raises(UsageError, match=r"--provider cpu: .*`tumorcast export "):
        open_engine(EngineChoice((dense_runs,), Provider.CPU))
    with pytest.raises(InputError, match=r"no RUN \(run\.json\)"):
        open_engine(EngineChoice((tmp_path,)))


@pytest.mark.parametrize(
    ("provider", "device", "takes"),
    [
        (Provider.CPU, "cuda", "takes cpu$"),
        (Provider.CUDA, "cpu", r"takes cuda\[:N\]$"),
        (Provider.TENSORRT, "cuda:first", r"takes cuda\[:N\]$"),
        (Provider.CUDA, "cuda:-1", r"takes cuda\[:N\]$"),
        (Provider.CUDA, "cuda:", r"takes cuda\[:N\]$"),
        (Provider.CPU, "cpu:1", "takes cpu$"),
    ],
)
def test_a_device_that_the_provider_does_not_take_is_refused(provider: Provider, device: str, takes: str) -> None:
    with pytest.raises(UsageError, match=rf"--device {device}: --provider {provider} {takes}"):
        device_index(provider, device)
