"""The progression network on volumes: in a bundle alone and beside networks of images, opened alone, held to torch."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.engines.conftest import (
    CONTRASTS,
    LEAST,
    SIDE,
    VOLUME_CONTRASTS,
    export_told,
    write_run,
    write_runs,
    write_volume_run,
)
from tests.engines.test_bundle import edited, rehash, scaled
from tests.evaluation.test_volumes import ball, session, write_sessions
from tumorcast.arrival.field import VolumeNetwork
from tumorcast.arrival.planes import EXTRA_PLANES
from tumorcast.cli.main import app
from tumorcast.engines import make, parity
from tumorcast.engines.bundle import IMAGE_GRAPHS, MANIFEST_FILE, WEIGHTS_FILE, Bundle, Graph, read_manifest
from tumorcast.engines.graphs import TwoStageNorm
from tumorcast.engines.guarded import GuardedEngine, GuardedVolume
from tumorcast.engines.locating import images_of
from tumorcast.engines.make import check_bundle
from tumorcast.engines.model import load_bundle, load_model_set, load_networks
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.opening import EngineChoice, open_engine
from tumorcast.engines.parity import compare_volumes, phantom_volume
from tumorcast.engines.progression import OnnxVolume, open_progression
from tumorcast.engines.protocol import ModelImages
from tumorcast.engines.providers import Gpu, SessionTarget, tensorrt_options
from tumorcast.engines.torch_engine import TorchEngine, TorchVolume
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.running.doctor import CheckStatus, EngineRequest, check_engine
from tumorcast.running.forecast_run import ForecastInputs, forecast_cohort
from tumorcast.settings import ForecastSettings, NetworkKind, Precision, Provider
from tumorcast.training.run_info import RUN_FILE

SHIPPED = Path(__file__).parents[2] / "tumorcast" / "models" / "demo128"
PLANES = len(VOLUME_CONTRASTS) + EXTRA_PLANES


@pytest.fixture(scope="session")
def both_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of images of one level, and one on volumes that looks at other contrasts."""
    folder = write_runs(NetworkKind.DENSE_REGRESSOR, tmp_path_factory.mktemp("both"), LEAST)
    write_volume_run(folder / "progression")
    return folder


@pytest.fixture(scope="session")
def both_bundle(both_runs: Path, make_once: Callable[..., Path]) -> Path:
    return make_once("both", lambda out: export_told(both_runs, out, 4))


@pytest.fixture
def copied(place_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place_bundle, tmp_path / "copied"))


def test_a_bundle_may_hold_the_network_on_volumes_alone(place_bundle: Path, place_told: dict[str, Any]) -> None:
    manifest = Bundle.open(place_bundle).manifest
    assert {path.name for path in place_bundle.iterdir()} == {MANIFEST_FILE, WEIGHTS_FILE, "progress.onnx"}
    assert manifest.graphs == (Graph.PROGRESS,)
    assert (manifest.slice_graphs, manifest.for_images, manifest.size_reader) == ((), False, None)
    assert (manifest.progression, manifest.contrasts) == (NetworkKind.PROGRESSION, VOLUME_CONTRASTS)
    assert manifest.network("progression").volume.widths == (8, 8, 8, 8)
    assert manifest.activation_bytes["progress"] > 8 * 48 * 64 * 64 * 4
    assert place_told["parity"].keys() == manifest.parity.keys() == {"progress.answer"}
    assert 0 < manifest.parity["progress.answer"].difference < manifest.parity["progress.answer"].limit == 1e-4
    assert place_told["checked_with"].endswith(", cpu")


def test_its_graph_is_plain_onnx_of_any_batch_and_sides(place_bundle: Path) -> None:
    proto = onnx.load(place_bundle / "progress.onnx", load_external_data=False)
    assert {node.domain for node in proto.graph.node} == {""}
    ports = {value.name: value.type.tensor_type.shape.dim for value in (*proto.graph.input, *proto.graph.output)}
    assert ports.keys() == {"planes", "answer"}
    for name, channels in (("planes", PLANES), ("answer", 2)):
        dims = ports[name]
        assert dims[1].dim_value == channels
        assert all(dims[axis].dim_param for axis in (0, 2, 3, 4))
    external = [c.name for c in proto.graph.initializer if c.data_location == onnx.TensorProto.EXTERNAL]
    assert "progression.encoder.0.convs.0.weight" in external
    assert not any(len(c.raw_data) > 1024 for c in proto.graph.initializer)


@pytest.mark.parametrize("sides", [(16, 24, 32), (48, 64, 64), (56, 72, 104)])
def test_volumes_of_other_sides_run_as_in_torch(place_bundle: Path, volume_run: Path, sides: tuple[int, ...]) -> None:
    ours, theirs = open_progression([place_bundle]), open_progression([volume_run])
    volume = np.random.default_rng(0).standard_normal((PLANES, *sides)).astype(np.float32)
    found, wanted = ours.answer(volume), theirs.answer(volume)
    assert found.dtype == wanted.dtype == np.float32
    assert found.shape == (2, *sides)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert found[0].min() > 0
    assert found[1].std() > 1e-3


def test_sides_that_are_no_multiples_are_refused_in_words(place_bundle: Path) -> None:
    network = open_progression([place_bundle])
    with pytest.raises(EngineError, match=r"progress\.onnx: failed on cpu with a volume of 50 x 64 x 64: "):
        network.answer(np.zeros((PLANES, 50, 64, 64), np.float32))


def test_memory_that_runs_out_is_told(place_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def run(self, *_: object) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer")

    network = open_progression([place_bundle])
    monkeypatch.setattr(network, "_session", Full())
    with pytest.raises(EngineError, match=r"cpu: out of memory with a volume of 8 x 8 x 8 .* more memory"):
        network.answer(np.zeros((PLANES, 8, 8, 8), np.float32))


def test_what_is_opened_is_a_volume_network(place_bundle: Path, volume_run: Path, both_bundle: Path) -> None:
    opened = [
        open_progression([place_bundle]),
        open_progression([place_bundle], Provider.TORCH),
        open_progression([both_bundle]),
        open_progression([volume_run]),
    ]
    for found in opened:
        network: VolumeNetwork = found
        assert (network.contrasts, network.voxel_mm) == (VOLUME_CONTRASTS, 2.0)
    assert [network.provider for network in opened] == [Provider.CPU, Provider.TORCH, Provider.CPU, Provider.TORCH]
    assert {network.device for network in opened} == {"cpu"}
    assert len({network.sha256 for network in opened}) == 1  # one network, whatever it lies in


def test_the_sum_is_of_the_weights_and_of_what_they_are(copied: Path, volume_run: Path, tmp_path: Path) -> None:
    before = open_progression([copied]).sha256
    scaled(copied, "progression.answer.bias", 1.001)
    assert open_progression([copied]).sha256 != before
    other = write_volume_run(tmp_path / "progression", ("t1c", "t2f", "t2w"))
    assert open_progression([other]).sha256 != open_progression([volume_run]).sha256 == before


def test_nothing_else_of_a_bundle_is_opened(both_bundle: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for name in (MANIFEST_FILE, WEIGHTS_FILE, "progress.onnx"):
        shutil.copy(both_bundle / name, part)
    assert open_progression([part]).answer(phantom_volume(len(VOLUME_CONTRASTS), (16, 16, 16))).shape == (2, 16, 16, 16)
    (part / "progress.onnx").write_bytes(b"graph")
    with pytest.raises(InputError, match=r"progress\.onnx: not the file"):
        open_progression([part])


@pytest.mark.parametrize("which", ["shipped", "slices alone", "without"])
def test_a_model_without_one_says_how_to_get_it(which: str, dense_runs: Path, pool_runs: Path) -> None:
    model = {"shipped": SHIPPED, "slices alone": pool_runs, "without": dense_runs}[which]
    with pytest.raises(InputError, match=r"no progression network on volumes; train one .* progression`, or .*--place"):
        open_progression([model])


def test_what_does_not_go_together_is_refused(volume_run: Path, place_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--provider cpu: .*`tumorcast export "):
        open_progression([volume_run], Provider.CPU)
    with pytest.raises(UsageError, match="--device cuda: --provider cpu takes cpu"):
        open_progression([place_bundle], device="cuda")
    with pytest.raises(EngineError, match="provider cuda: the onnxruntime installed here offers"):
        open_progression([place_bundle], Provider.CUDA)
    with pytest.raises(InputError, match="2 progression networks; give --model one"):
        open_progression([volume_run, write_volume_run(tmp_path / "other")])


def test_images_are_not_made_by_a_place_only_model(place_bundle: Path, volume_run: Path) -> None:
    with pytest.raises(InputError, match=r"holds the progression network on volumes alone, .*; give a bundle of"):
        open_engine(EngineChoice((place_bundle,)))
    with pytest.raises(InputError, match="volumes alone"):
        load_bundle(Bundle.open(place_bundle))
    with pytest.raises(InputError, match="volumes alone"):
        images_of(place_bundle)
    with pytest.raises(InputError, match="no denoiser among the RUN folders"):
        open_engine(EngineChoice((volume_run,)))
    with pytest.raises(InputError, match="give the denoiser's RUN folder too"):
        images_of(volume_run)


def test_a_model_with_both_makes_images_and_has_no_network_on_slices(both_bundle: Path, both_runs: Path) -> None:
    bundle = Bundle.open(both_bundle)
    assert bundle.manifest.graphs == (*IMAGE_GRAPHS, Graph.PROGRESS)
    assert bundle.manifest.slice_graphs == IMAGE_GRAPHS
    assert bundle.manifest.network("progression").contrasts == VOLUME_CONTRASTS
    assert bundle.manifest.network("denoiser").contrasts == bundle.info.contrasts == CONTRASTS
    assert "progress.answer" in bundle.manifest.parity and "size.size" in bundle.manifest.parity
    engines = open_engine(EngineChoice((both_bundle,))), open_engine(EngineChoice((both_runs,)))
    assert isinstance(engines[0], OnnxEngine)
    assert isinstance(engines[1], GuardedEngine) and isinstance(engines[1].engine, TorchEngine)
    images = np.zeros((1, len(CONTRASTS), SIDE, SIDE), np.float32)
    for engine in engines:
        assert engine.info.progression is NetworkKind.PROGRESSION
        assert engine.info.images == ModelImages(SIDE, CONTRASTS)
        assert engine.segment(images).shape == (1, SIDE, SIDE)
        with pytest.raises(InputError, match="no progression network on slices"):
            engine.predict_progression(images, images[:, 0], np.zeros(1, np.float32))
    told = json.loads((both_bundle / MANIFEST_FILE).read_text())["networks"]
    assert [name for name, entry in told.items() if "contrasts" in entry] == ["progression"]


def test_images_are_those_of_the_first_network_of_images(both_runs: Path) -> None:
    assert images_of(both_runs / "progression", both_runs / "segmenter") == ModelImages(SIDE, CONTRASTS)


def test_a_model_has_one_progression_network_of_either_kind(both_runs: Path, tmp_path: Path) -> None:
    write_run(NetworkKind.SLICE_PROGRESSION, tmp_path / "slices", LEAST)
    with pytest.raises(InputError, match="2 networks of kind progression or slice-progression, exactly one"):
        load_model_set([both_runs, tmp_path / "slices"])
    alone = load_networks([both_runs / "progression"])
    assert alone.images is None
    assert alone.volume is not None
    assert load_networks([both_runs]).entries.keys() == {"denoiser", "regressor", "segmenter", "progression"}


def test_other_planes_than_those_of_its_contrasts_are_refused(tmp_path: Path) -> None:
    run = write_volume_run(tmp_path / "progression")
    told = json.loads((run / RUN_FILE).read_text())
    (run / RUN_FILE).write_text(json.dumps(told | {"contrasts": ["t1c"]}))
    with pytest.raises(InputError, match=r"in_channels = 6, .* of 1 contrasts takes 4; train it again"):
        load_networks([run])


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m["networks"]["progression"].update(kind="segmenter"), "architecture: not one of a segmenter"),
        (lambda m: m["networks"].update(denoiser=m["networks"]["progression"]), "networks: has denoiser, must have"),
        (lambda m: m["networks"].clear(), "networks: has none, must have denoiser"),
        (lambda m: m["sha256"].update({"size.onnx": ""}), "sha256: has .*size.onnx"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copied: Path, edit: Callable[[dict], object], reason: str) -> None:
    edited(copied, edit)
    with pytest.raises(InputError, match=rf"manifest\.json: .*{reason}"):
        Bundle.open(copied)


def test_old_manifests_are_read_and_stay_as_they_are(tmp_path: Path) -> None:
    """The network on slices had the name that that on volumes has now."""
    old = tmp_path / "old"
    shutil.copytree(SHIPPED, old)
    text = (SHIPPED / MANIFEST_FILE).read_text().replace('"slice-progression"', '"progression"')
    assert json.loads(text)["networks"]["progression"]["kind"] == "progression"
    (old / MANIFEST_FILE).write_text(text)
    manifest = read_manifest(old)
    assert manifest.progression is NetworkKind.SLICE_PROGRESSION
    assert manifest.network("progression").plane.image_size == 128
    assert Bundle.open(old).info.progression is NetworkKind.SLICE_PROGRESSION
    assert load_bundle(Bundle.open(old)).progression is not None
    assert (old / MANIFEST_FILE).read_text() == text


def test_a_bundle_is_checked_again(place_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["export", str(place_bundle), "--check", "full", "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["parity"]
    assert told.keys() == {"progress.answer"}
    assert told["progress.answer"]["difference"] <= 1e-4


def test_shaken_weights_do_not_pass(copied: Path, volume_run: Path) -> None:
    """The graph of one tensor a hundredth off, against the network as it was."""
    scaled(copied, "progression.last.weight", 1.01)
    found = compare_volumes(open_progression([copied]), open_progression([volume_run]))
    with pytest.raises(EngineError, match=r"b: does not match .*progress\.answer .*phantom of \d+ x \d+ x \d+"):
        parity.check(found, "b")


def test_a_graph_that_does_not_use_its_weights_is_refused(copied: Path) -> None:
    graph = onnx.load(copied / "progress.onnx", load_external_data=False)
    weights = {c.name: c for c in graph.graph.initializer}
    first, second = (weights[f"progression.encoder.{level}.convs.0.weight"] for level in (0, 1))
    for entry, other in zip(first.external_data, second.external_data, strict=True):
        entry.value = other.value
    onnx.save(graph, copied / "progress.onnx")
    rehash(copied)
    with pytest.raises(EngineError, match=r"copied: .*progress\.answer"):
        check_bundle(copied, None, Provider.CPU)


def test_each_of_the_two_numbers_is_compared_by_its_own_scale(volume_run: Path) -> None:
    class Off:
        """Answers that are off by a thousandth, the larger number or the smaller."""

        def __init__(self, place: int) -> None:
            self.place = place

        def answer(self, planes: Any) -> Any:
            found = wanted(planes)
            found[self.place] += 0.001
            return found

    def wanted(planes: Any) -> Any:
        return np.stack([np.full(planes.shape[1:], 1.0), np.full(planes.shape[1:], 100.0)]).astype(np.float32)

    reference: Any = Off(0)
    reference.contrasts, reference.answer = VOLUME_CONTRASTS, wanted
    for place, difference in ((0, 1e-3), (1, 1e-5)):
        found = compare_volumes(Off(place), reference)["progress.answer"]  # type: ignore[arg-type]
        assert found.difference == pytest.approx(difference, rel=0.05)


def test_weights_that_do_not_fit_are_refused(copied: Path) -> None:
    (copied / WEIGHTS_FILE).write_bytes(b"nothing")
    rehash(copied)
    for provider in (None, Provider.TORCH):
        with pytest.raises(InputError, match=r"weights\.safetensors: not a file of weights"):
            open_progression([copied], provider)


@pytest.mark.parametrize("options", [["--precision", "fp16"], ["--cohort", "cohort.h5"]])
def test_what_is_told_of_images_is_refused_for_a_place_only_bundle(
    options: list[str], volume_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"{options[0]} .*alone; leave it out"):
        app(["export", str(volume_run), "--out", str(tmp_path / "b"), *options], standalone_mode=False)
    assert not (tmp_path / "b").exists()


def test_half_precision_does_not_touch_it(both_runs: Path) -> None:
    """The graph is traced of the network as it is; bfloat16 has no parity in ONNX Runtime here, and this has."""
    from tumorcast.engines.graphs import lower

    networks = load_networks([both_runs])
    assert networks.images is not None
    lowered = replace(networks, images=lower(networks.images, Precision.FP16))
    assert {value.dtype for value in lowered.modules["progression"].state_dict().values()} == {torch.float32}
    assert torch.float16 in {value.dtype for value in lowered.modules["denoiser"].state_dict().values()}


def test_a_norm_in_two_stages_is_a_group_norm() -> None:
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = 3 + 2 * torch.randn(2, 8, 6, 10, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(TwoStageNorm(norm)(features), norm(features))


def test_tensorrt_gets_no_fixed_sides(both_bundle: Path, tmp_path: Path, gpu_target: SessionTarget) -> None:
    bundle, target = Bundle.open(both_bundle), replace(gpu_target, provider=Provider.TENSORRT)
    options = tensorrt_options(target, bundle, Graph.PROGRESS, tmp_path)
    assert options["trt_engine_cache_prefix"] == "progress"
    assert not any("profile" in name or "cuda_graph" in name for name in options)
    assert "trt_profile_min_shapes" in tensorrt_options(target, bundle, Graph.SIZE, tmp_path)


def test_tensorrt_is_built_for_the_least_volume(place_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    class Opened(OnnxVolume):
        """On the CPU, whatever is asked for."""

        def __init__(self, bundle: Bundle, provider: Provider, **_: object) -> None:
            super().__init__(bundle)

        def answer(self, planes: Any) -> Any:
            seen.append(planes.shape)
            return super().answer(planes)

    gpu = Gpu(0, "H100", "sm90", "570", 1, 1)
    monkeypatch.setattr(make, "OnnxVolume", Opened)
    monkeypatch.setattr(SessionTarget, "find", classmethod(lambda cls, *_: cls(Provider.CPU, gpu, 1)))
    monkeypatch.setattr("tumorcast.engines.progression.open_session", lambda *_: Silent())
    assert make.build_tensorrt(place_bundle, 0, None, 16) == "cuda:0 H100"
    assert seen == [(PLANES, 48, 64, 64)]


class Silent:
    """A session that answers nothing."""

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        planes = feeds["planes"]
        return [np.zeros((1, 2, *planes.shape[2:]), np.float32)]


@pytest.mark.parametrize("provider", [Provider.CPU, Provider.TORCH])
def test_doctor_looks_at_a_place_only_bundle(place_bundle: Path, provider: Provider) -> None:
    checks = check_engine(EngineRequest(place_bundle, provider), lambda *_: None)
    assert [check.name for check in checks] == ["model", "provider", "parity", "speed volume"]
    assert {check.status for check in checks} == {CheckStatus.OK}, checks
    assert "volumes of 2 mm of t1c t2f t1n, graphs progress, checked with onnxruntime" in checks[0].message


def test_torch_in_whole_float32(volume_run: Path) -> None:
    network, seen = open_progression([volume_run]), []
    assert isinstance(network, GuardedVolume) and isinstance(network.network, TorchVolume)
    network.network._module.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    network.answer(np.zeros((PLANES, 16, 16, 16), np.float32))
    assert seen == [False]


def test_a_forecast_of_maps_alone_computes_the_network_of_place_as_it_is_told(
    place_bundle: Path, blob_cohort: Path, tmp_path: Path
) -> None:
    settings = ForecastSettings(relative_change=0.2, members=2, maps_only=True)
    inputs = ForecastInputs(blob_cohort, EngineChoice((), Provider.CPU, "cuda"), None, place_bundle)
    with pytest.raises(UsageError, match="--device cuda: --provider cpu takes cpu"):
        forecast_cohort(inputs, tmp_path / "maps.h5", settings)


def test_a_device_is_of_no_use_to_the_front_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cohort = write_sessions(tmp_path / "cohort.h5", [session("A", 0, 0.0, ball(5))])
    settings = ForecastSettings(relative_change=0.2, members=2, maps_only=True)
    for choice, told in ((EngineChoice((), Provider.CUDA), True), (EngineChoice(()), False)):
        caplog.clear()
        forecast_cohort(ForecastInputs(cohort, choice, None, Path("front")), tmp_path / f"{told}.h5", settings)
        assert any("front has none; it runs on the CPU" in one.getMessage() for one in caplog.records) is told
