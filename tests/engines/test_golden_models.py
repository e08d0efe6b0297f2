"""The small bundle that other tests read from tests/golden still is what its networks compute, in the form of today."""

import os
from pathlib import Path

import onnx
import pytest

from tests.golden.models import BUNDLE, CONTRASTS, IMAGE_SIZE, MAX_BATCH, pack_bundle, unpack_bundle, write_runs
from tumorcast.engines import parity
from tumorcast.engines.bundle import Bundle
from tumorcast.engines.export import ExportSettings
from tumorcast.engines.make import make_bundle, measure, parity_inputs
from tumorcast.engines.model import Networks, load_model_set
from tumorcast.settings import Provider


@pytest.mark.slow
def test_the_golden_bundle_computes_what_its_networks_do(
    dense_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TUMORCAST_GOLDEN=write it is exported anew, which takes a minute; its form is that of `dense_bundle`."""
    runs = write_runs(tmp_path / "runs")
    if os.environ.get("TUMORCAST_GOLDEN") == "write":
        make_bundle([runs], tmp_path / "made", ExportSettings(max_batch=MAX_BATCH), None)
        pack_bundle(tmp_path / "made")
    golden, exported = Bundle.open(unpack_bundle(tmp_path / "golden")), Bundle.open(dense_bundle)
    model = load_model_set([runs])
    assert golden.info.images == model.info.images
    assert (golden.info.image_size, golden.info.contrasts) == (IMAGE_SIZE, CONTRASTS)
    assert golden.manifest.opset == exported.manifest.opset
    assert {g: ports(golden, g) for g in golden.manifest.graphs} == {
        g: ports(exported, g) for g in golden.manifest.graphs
    }
    monkeypatch.setattr(parity, "TIMES", 3)
    found, _ = measure(golden, Networks(model, None), parity_inputs(model, None), Provider.CPU, lambda *_: None)
    parity.check(found, str(BUNDLE))
    assert found.keys() == exported.manifest.parity.keys()


def ports(bundle: Bundle, graph: str) -> tuple[list[str], list[str]]:
    """The names of a graph's inputs and outputs."""
    proto = onnx.load(bundle.folder / f"{graph}.onnx", load_external_data=False).graph
    return [entry.name for entry in proto.input], [entry.name for entry in proto.output]
