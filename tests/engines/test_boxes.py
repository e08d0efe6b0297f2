"""Bundles that compute in boxes: made when asked for, matched to torch, and forecasts through them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tumorcast.diffusion.box import sample_in_boxes
from tumorcast.diffusion.sampler import Array, Encodings, MemberTargets, sample
from tumorcast.engines.bundle import BOX_GRAPHS, Bundle, Graph
from tumorcast.engines.export import ExportSettings
from tumorcast.engines.guarded import GuardedEngine
from tumorcast.engines.make import check_bundle, make_bundle
from tumorcast.engines.model import bundle_networks, for_boxes, load_bundle, load_networks
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.providers import SessionTarget, has_fixed_shapes, provider_list
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.engines.trial import try_out
from tumorcast.errors import EngineError, InputError
from tumorcast.running.estimate import TimedEngine
from tumorcast.settings import CheckDepth, Provider, SamplerSettings

pytestmark = pytest.mark.slow


def ensemble(side: int) -> tuple[Encodings, MemberTargets]:
    """Four members of one slice from two encodings, guided in a corner."""
    rng = np.random.default_rng(0)
    image = np.repeat(0.2 * rng.standard_normal((1, 2, side, side)).astype(np.float32), 2, axis=0)
    noise = rng.standard_normal(image.shape).astype(np.float32)
    encodings = Encodings(
        image, noise, np.full(2, 0.3, np.float32), np.ones((2, side, side), np.float32), np.zeros(2, int)
    )
    window = np.zeros((4, side, side), np.float32)
    window[:, 1:6, 2:7] = 1
    change = np.array([0.0, 0.01, 0.02, 0.03], np.float32)
    return encodings, MemberTargets(np.array([0, 1, 0, 1]), change, window)


def made(engine: OnnxEngine | TorchEngine | GuardedEngine | TimedEngine, batch: int = 4) -> Array:
    encodings, members = ensemble(engine.info.image_size)
    multiple = engine.info.box_multiple
    assert multiple is not None
    return sample_in_boxes(engine, encodings, members, SamplerSettings(levels=3), multiple=multiple, batch=batch)


def test_the_graphs_are_there_and_match_torch(boxed: Path) -> None:
    manifest = Bundle.open(boxed).manifest
    assert {*BOX_GRAPHS} < {*manifest.graphs}
    found = {name for name in manifest.parity if name.startswith(("survey.", "box."))}
    assert found == {"survey.x_next", "survey.eps", "survey.norms", "box.departure_next", "box.change", "box.size"}
    assert all(part.difference <= part.limit for part in manifest.parity.values())
    again = check_bundle(boxed, None, Provider.CPU, depth=CheckDepth.QUICK)
    assert found < {*again}


def test_what_is_off_in_a_box_is_found(boxed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = OnnxEngine.box_step

    def off(self: OnnxEngine, *asked: object) -> tuple[Array, Array, Array]:
        departure, change, size = step(self, *asked)  # type: ignore[arg-type]
        return departure, change + 0.01, size

    monkeypatch.setattr(OnnxEngine, "box_step", off)
    with pytest.raises(EngineError, match=r"box.change is off by 0.00\d+ of its largest value"):
        check_bundle(boxed, None, Provider.CPU, depth=CheckDepth.QUICK)


def test_engines_make_the_same_members(boxed: Path) -> None:
    onnx, torch = OnnxEngine(Bundle.open(boxed)), TorchEngine(load_bundle(Bundle.open(boxed)))
    try_out(onnx)
    expected = made(torch)
    np.testing.assert_allclose(made(onnx), expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(made(onnx, batch=1), expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(made(GuardedEngine(torch, lambda: None)), expected, rtol=0, atol=1e-6)
    timed = TimedEngine(onnx)
    made(timed)
    assert {*timed.seconds} == {"encoding", "guided steps"}


def test_members_move_in_the_box_and_nowhere_else(boxed: Path) -> None:
    engine = OnnxEngine(Bundle.open(boxed))
    encodings, members = ensemble(engine.info.image_size)
    moved = made(engine) - encodings.image[members.encoding]
    assert np.abs(moved[:, :, :16, :16]).max(axis=(1, 2, 3))[1:].min() > 1e-3
    moved[:, :, :16, :16] = 0
    assert not moved.any()


def test_where_the_box_is_the_slice_members_are_nearly_those_of_whole_slices(boxed: Path) -> None:
    """With many levels both follow the same flow, up to what encoding and decoding lose on the way."""
    engine = OnnxEngine(Bundle.open(boxed))
    encodings, members = ensemble(engine.info.image_size)
    everywhere = MemberTargets(members.encoding, members.target_change, np.ones_like(members.window))
    settings = SamplerSettings(steps=60)
    whole = sample(engine, encodings, everywhere, settings, batch=4)
    boxes = sample_in_boxes(engine, encodings, everywhere, settings, multiple=8, batch=4)
    moved = np.abs(whole - encodings.image[members.encoding]).mean()
    assert np.abs(whole - boxes).mean() < 0.5 * moved


def test_a_bundle_without_them_says_so(dense_bundle: Path, boxed: Path) -> None:
    assert Bundle.open(dense_bundle).info.box_multiple is None
    assert Bundle.open(boxed).info.box_multiple == 8
    assert bundle_networks(Bundle.open(dense_bundle)).images.info.box_multiple is None  # type: ignore[union-attr]


def test_networks_that_cannot_are_refused(pool_runs: Path, volume_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--boxes: the regressor is the attention-pool one"):
        make_bundle([pool_runs], tmp_path / "out", ExportSettings(boxes=True), None)
    with pytest.raises(InputError, match="--boxes: there are no networks of images"):
        for_boxes(load_networks([volume_run]))
    assert not (tmp_path / "out").exists()


def test_half_a_pair_of_graphs_is_no_bundle(boxed: Path, tmp_path: Path) -> None:
    record = json.loads((boxed / "manifest.json").read_text())
    del record["sha256"]["box.onnx"]
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"sha256: has .*survey.onnx.*, must have box.onnx"):
        Bundle.open(tmp_path)


def test_boxes_have_no_fixed_shapes_on_a_gpu(boxed: Path, gpu_target: SessionTarget, tmp_path: Path) -> None:
    bundle = Bundle.open(boxed)
    assert has_fixed_shapes(bundle, Graph.SURVEY)
    assert not has_fixed_shapes(bundle, Graph.BOX)
    assert [name for name, _ in provider_list(gpu_target, bundle, Graph.BOX, tmp_path)] == [
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
