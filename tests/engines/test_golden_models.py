"""The small bundle that other tests read from tests/golden is what an export would write today."""

import os
from pathlib import Path

import pytest

from tests.golden.models import BUNDLE, MAX_BATCH, pack_bundle, unpack_bundle, write_runs
from tumorcast.engines.bundle import Bundle, read_manifest
from tumorcast.engines.export import ExportSettings
from tumorcast.engines.make import make_bundle, measure, parity_inputs
from tumorcast.engines.model import load_model_set
from tumorcast.engines.parity import check
from tumorcast.settings import Provider

OF_ITS_TIME = {"versions", "commit", "checked_with", "parity", "sha256", "activation_bytes"}


@pytest.mark.slow
def test_the_golden_bundle_is_what_an_export_writes_today(tmp_path: Path) -> None:
    """Weights to the byte; graphs, which vary with the version of torch, by what they compute."""
    runs = write_runs(tmp_path / "runs")
    made = make_bundle([runs], tmp_path / "made", ExportSettings(max_batch=MAX_BATCH), None)
    if os.environ.get("TUMORCAST_GOLDEN") == "write":
        pack_bundle(tmp_path / "made")
    golden = unpack_bundle(tmp_path / "golden")
    assert read_manifest(golden).model_dump(exclude=OF_ITS_TIME) == made.model_dump(exclude=OF_ITS_TIME)
    assert (golden / "weights.safetensors").read_bytes() == (tmp_path / "made" / "weights.safetensors").read_bytes()
    model = load_model_set([runs])
    found, _ = measure(Bundle.open(golden), model, parity_inputs(model, None), Provider.CPU, lambda *_: None)
    check(found, str(BUNDLE))
    assert found.keys() == made.parity.keys()
