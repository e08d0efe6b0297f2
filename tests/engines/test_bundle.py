"""A bundle that is not as it was made is refused, by one message that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tumorcast.durable import sha256_of
from tumorcast.engines import parity
from tumorcast.engines.bundle import (
    BOX_GRAPHS,
    IMAGE_GRAPHS,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Bundle,
    Graph,
    Manifest,
    is_bundle,
    read_manifest,
)
from tumorcast.engines.make import check_bundle
from tumorcast.engines.model import load_bundle, load_model_set
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.parity import compare, phantom
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import EngineError, InputError
from tumorcast.settings import NetworkKind, Precision, Provider

SHIPPED = Path(__file__).parents[2] / "tumorcast" / "models" / "demo128"
FILES = [WEIGHTS_FILE, *(graph.file for graph in IMAGE_GRAPHS)]


@pytest.fixture
def few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity at the first noise level, the last and one between; an export of the fixtures looks at twelve."""
    monkeypatch.setattr(parity, "TIMES", 3)


@pytest.fixture
def copied(dense_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dense_bundle, tmp_path / "copied"))


def edited(bundle: Path, edit: Callable[[dict], object]) -> None:
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    edit(manifest)
    (bundle / MANIFEST_FILE).write_text(json.dumps(manifest))


def rehash(bundle: Path) -> None:
    edited(bundle, lambda m: m.update(sha256={name: sha256_of(bundle / name) for name in m["sha256"]}))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: not the file"):
        Bundle.open(copied)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_told(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: missing"):
        Bundle.open(copied)


def test_a_manifest_that_is_not_one_is_refused(copied: Path) -> None:
    text = (copied / MANIFEST_FILE).read_text()
    cases = {
        "": "Invalid JSON",
        text[:-20]: "Invalid JSON",
        "[]": "Input should be an object",
        text.replace('"opset": 20', '"opset": "many"'): "opset: ",
        text.replace('"judge"', '"juge"'): "judge: Field required|juge: ",
        text.replace("segmenter", "painter"): "networks",
        "\xff": "utf-8|Invalid JSON",
    }
    for content, reason in cases.items():
        (copied / MANIFEST_FILE).write_text(content, encoding="latin-1")
        with pytest.raises(InputError, match=rf"manifest\.json: .*\(.*({reason})"):
            Bundle.open(copied)
    (copied / MANIFEST_FILE).unlink()
    assert not is_bundle(copied)
    with pytest.raises(InputError, match=r"manifest\.json: not found"):
        Bundle.open(copied)


def test_another_version_is_refused(copied: Path) -> None:
    edited(copied, lambda m: m.update(format_version=2))
    with pytest.raises(InputError, match=r"manifest\.json: .*\(format_version"):
        Bundle.open(copied)


def test_a_manifest_without_a_network_or_a_sum_is_refused(copied: Path) -> None:
    edited(copied, lambda m: m["networks"].pop("denoiser"))
    with pytest.raises(InputError, match=r"\(networks: .*denoiser"):
        Bundle.open(copied)


@pytest.mark.parametrize("name", FILES)
def test_every_file_needs_its_sum(copied: Path, name: str) -> None:
    edited(copied, lambda m: m["sha256"].pop(name))
    with pytest.raises(InputError, match=rf"\(sha256: .*{name}"):
        Bundle.open(copied)


def test_the_progression_network_and_its_graph_come_together(pool_bundle: Path, tmp_path: Path) -> None:
    def without(*places: tuple[str, str]) -> Manifest:
        shutil.copy(pool_bundle / MANIFEST_FILE, tmp_path)
        edited(tmp_path, lambda m: [m[part].pop(name) for part, name in places])
        return read_manifest(tmp_path)

    network, graph = ("networks", "progression"), ("sha256", "progress.onnx")
    assert without().graphs == (*IMAGE_GRAPHS, Graph.PROGRESS)
    assert Graph.PROGRESS not in without(network, graph).graphs
    with pytest.raises(InputError, match=r"\(sha256: has .*progress\.onnx.*, must"):
        without(network)
    with pytest.raises(InputError, match=r"must .*progress\.onnx"):
        without(graph)


def test_a_bundle_may_lack_a_progression_network_and_the_shipped_one_has_it(dense_bundle: Path) -> None:
    bundle, shipped = Bundle.open(dense_bundle), Bundle.open(SHIPPED)
    assert bundle.manifest.graphs == (Graph.ENCODE, Graph.GUIDED, Graph.SIZE, Graph.SEGMENT)
    assert bundle.info.progression is None
    assert load_bundle(bundle).progression is None
    assert shipped.manifest.graphs == (*IMAGE_GRAPHS, *BOX_GRAPHS, Graph.PROGRESS)
    assert shipped.info.progression is NetworkKind.SLICE_PROGRESSION


def test_the_progression_network_is_that_of_its_run(pool_bundle: Path, pool_runs: Path) -> None:
    bundle, runs = load_bundle(Bundle.open(pool_bundle)), load_model_set([pool_runs])
    assert bundle.info.progression is runs.info.progression is NetworkKind.SLICE_PROGRESSION
    assert bundle.entries["progression"].architecture == runs.entries["progression"].architecture
    assert bundle.progression is not None
    assert runs.progression is not None
    wanted = runs.progression.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in bundle.progression.state_dict().items())


def test_the_model_is_what_the_runs_are(dense_bundle: Path, dense_runs: Path) -> None:
    bundle, runs = Bundle.open(dense_bundle), load_model_set([dense_runs])
    model = load_bundle(bundle)
    for name in ("contrasts", "image_size", "noise_levels", "size_reader"):
        assert getattr(bundle.info, name) == getattr(model.info, name) == getattr(runs.info, name)
    for ours, theirs in ((model.denoiser, runs.denoiser), (model.regressor, runs.regressor)):
        wanted = theirs.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in ours.state_dict().items())


def test_the_sum_of_a_bundle_is_that_of_its_files(copied: Path, dense_bundle: Path) -> None:
    assert Bundle.open(copied).info.sha256 == Bundle.open(dense_bundle).info.sha256
    (copied / "size.onnx").write_bytes((copied / "size.onnx").read_bytes() + b" ")
    rehash(copied)
    assert Bundle.open(copied).info.sha256 != Bundle.open(dense_bundle).info.sha256


def scaled(bundle: Path, name: str, factor: float) -> None:
    """Change one tensor of the weights, with sums that fit."""
    tensors = load_file(bundle / WEIGHTS_FILE)
    tensors[name] = (factor * tensors[name].float()).to(tensors[name].dtype)
    save_file(tensors, bundle / WEIGHTS_FILE)
    rehash(bundle)


@pytest.mark.usefixtures("few_times")
def test_graphs_of_other_weights_do_not_pass(copied: Path, dense_bundle: Path) -> None:
    """The engine with one tensor a thousandth off, against the networks as they were."""
    scaled(copied, "regressor.out.2.weight", 1.001)
    engine, reference = OnnxEngine(Bundle.open(copied)), TorchEngine(load_bundle(Bundle.open(dense_bundle)))
    found = compare(engine, reference, Precision.FP32, [phantom(2, 32)])
    beyond = {name for name, part in found.items() if part.difference > part.limit}
    assert beyond == {"size.size", "guided.x_next"}


@pytest.mark.usefixtures("few_times")
def test_a_graph_that_does_not_use_its_weights_is_refused(copied: Path) -> None:
    """A graph that reads one tensor where another is: all sums fit, and only the comparison can tell."""
    import onnx

    graph = onnx.load(copied / "guided.onnx", load_external_data=False)
    first, second = [c for c in graph.graph.initializer if c.name.startswith("denoiser.") and list(c.dims) == SAME][:2]
    for entry, other in zip(first.external_data, second.external_data, strict=True):
        entry.value = other.value
    onnx.save(graph, copied / "guided.onnx")
    rehash(copied)
    with pytest.raises(EngineError, match=r"copied: .*guided\.(eps|x_next)"):
        check_bundle(copied, None, Provider.CPU)


SAME = [32, 32, 3, 3]


@pytest.mark.usefixtures("few_times")
def test_a_bundle_is_checked_again(pool_bundle: Path) -> None:
    told: list[tuple[int, int]] = []
    found = check_bundle(pool_bundle, None, Provider.CPU, report=lambda *progress: told.append(progress))
    recorded = read_manifest(pool_bundle).parity
    assert found.keys() == recorded.keys()
    assert [done for done, _ in told] == list(range(told[-1][1] + 1))
    assert all(part.difference <= part.limit for part in found.values())


def test_weights_that_do_not_fit_the_manifest_are_refused(copied: Path) -> None:
    (copied / WEIGHTS_FILE).write_bytes(b"nothing")
    rehash(copied)
    with pytest.raises(InputError, match=r"weights\.safetensors: "):
        load_bundle(Bundle.open(copied))


def test_a_manifest_is_written_as_it_was_read(tmp_path: Path) -> None:
    """Its keys are those of bundles that users have, whatever their fields are called here.

    The network on slices had the name that that on volumes has now.
    """
    today = (SHIPPED / MANIFEST_FILE).read_text()
    assert '"judge"' in today
    before = today.replace('"kind": "slice-progression"', '"kind": "progression"')
    assert before != today
    for text in (today, before):
        (tmp_path / MANIFEST_FILE).write_text(text)
        assert read_manifest(tmp_path).model_dump_json(indent=1) + "\n" == today
