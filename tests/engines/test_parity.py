"""What the comparison sees, and what it lets pass."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumorcast.engines import parity
from tumorcast.engines.bundle import TensorParity
from tumorcast.engines.make import parity_inputs
from tumorcast.engines.model import ModelSet, load_model_set
from tumorcast.engines.parity import compare, limit_of, noise, phantom
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.errors import EngineError, InputError
from tumorcast.settings import Precision

pytestmark = pytest.mark.slow

OUTPUTS = {"size.size", "encode.x_next", "encode.eps", "guided.x_next", "guided.eps", "segment.probability"}
OUTPUTS |= {"progress.probability"}


@pytest.fixture(scope="module")
def model(least_runs: Path) -> ModelSet:
    return load_model_set([least_runs])


class Off:
    """An engine whose answers to one question are off, at some diffusion times."""

    def __init__(self, engine: TorchEngine, method: str, place: int, by: float, times: range = range(1000)) -> None:
        self.engine, self.method, self.place, self.by, self.times = engine, method, place, by, times
        self.info = engine.info

    def __getattr__(self, name: str) -> Any:
        answer = getattr(self.engine, name)
        if name != self.method:
            return answer

        def off(x: Any, *rest: Any, **named: Any) -> Any:
            found = answer(x, *rest, **named)
            t = 0 if name in ("segment", "predict_progression") else getattr(rest[0], "t", rest[0])
            if t not in self.times:
                return found
            parts = list(found) if isinstance(found, tuple) else [found]
            parts[self.place] = parts[self.place] + np.float32(self.by * np.abs(parts[self.place]).max())
            return tuple(parts) if isinstance(found, tuple) else parts[0]

        return off


@pytest.mark.parametrize(
    ("method", "place", "name"),
    [
        ("encode_step", 0, "encode.x_next"),
        ("encode_step", 1, "encode.eps"),
        ("guided_step", 0, "guided.x_next"),
        ("guided_step", 1, "guided.eps"),
        ("sizes", 0, "size.size"),
        ("segment", 0, "segment.probability"),
        ("predict_progression", 0, "progress.probability"),
    ],
)
def test_every_output_is_compared(
    model: ModelSet, method: str, place: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TIMES", 2)
    engine = TorchEngine(model)
    found = compare(Off(engine, method, place, 1e-3), engine, Precision.FP32, [phantom(2, 32)])
    assert [n for n, part in found.items() if part.difference > 0] == [name]
    assert found[name].difference == pytest.approx(1e-3, rel=0.25)  # of LEAST_SCALE where all are smaller
    with pytest.raises(EngineError, match=rf"b: .*{name} is off by 0\.00\d+"):
        parity.check(found, "b")


def test_an_engine_is_as_itself(model: ModelSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TIMES", 3)
    engine = TorchEngine(model)
    same = compare(engine, engine, Precision.FP32, [phantom(2, 32)])
    assert same.keys() == OUTPUTS
    assert {part.difference for part in same.values()} == {0.0}
    parity.check(same, "b")


def test_what_a_model_has_not_is_not_compared(dense_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TIMES", 1)
    engine = TorchEngine(load_model_set([dense_runs]))
    found = compare(engine, engine, Precision.FP32, [phantom(2, 32)])
    assert found.keys() == OUTPUTS - {"progress.probability"}


def test_a_fault_at_high_noise_alone_is_seen_and_placed(model: ModelSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TIMES", 3)
    engine = TorchEngine(model)
    found = compare(Off(engine, "encode_step", 1, 0.1, range(250, 1000)), engine, Precision.FP32, [noise(2, 32)])
    assert found["encode.eps"].where == "random at t = 299"  # the last of the 300 that the networks know


def test_what_is_not_a_number_is_beyond_any_limit(model: ModelSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TIMES", 2)
    engine = TorchEngine(model)
    found = compare(Off(engine, "segment", 0, np.nan), engine, Precision.BF16, [noise(2, 32)])
    with pytest.raises(EngineError, match=r"segment\.probability .*inf"):
        parity.check(found, "b")


def test_the_tensor_that_is_furthest_beyond_its_limit_is_named() -> None:
    found = {
        "encode.eps": TensorParity(difference=4e-5, limit=5e-5, where="here"),
        "guided.eps": TensorParity(difference=5e-3, limit=1e-2, where="there"),
    }
    parity.check(found, "b")
    found["size.size"] = TensorParity(difference=1e-4, limit=5e-5, where="phantom at t = 3")
    with pytest.raises(EngineError, match=r"size\.size .*0\.0001 .*t = 3\), 5e-05"):
        parity.check(found, "b")


def test_half_precision_is_allowed_to_the_denoiser_alone() -> None:
    for name in ("size.size", "segment.probability", "progress.probability"):
        assert len({limit_of(name, precision) for precision in Precision}) == 1
    for precision in Precision:
        assert limit_of("guided.x_next", precision) == parity.DENOISED[precision]


def test_slices_are_those_with_most_tumour(blob_cohort: Path, tiny_model: Path) -> None:
    tiny = load_model_set([tiny_model])
    slices, random = parity_inputs(tiny, blob_cohort)
    assert (slices.name, random.name) == ("cohort", "random")
    assert slices.images.shape == (2, 4, 64, 64)
    assert slices.brains.dtype == np.float32
    assert (slices.images == np.float32(0.8)).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(slices.outlines, slices.images[:, 0] == np.float32(0.8))
    assert slices.outlines.dtype == np.float32
    other = replace(tiny, info=replace(tiny.info, image_size=32))
    with pytest.raises(InputError, match=r"t2f at 64 px, .* at 32 px"):
        parity_inputs(other, blob_cohort)
    assert parity_inputs(other, None)[0].images.shape == (2, 4, 32, 32)
