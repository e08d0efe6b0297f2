"""Batches that halve when memory runs out, by the libraries' own words; and torch behind the same guard."""

import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.fakes import SlowEngine
from tumorcast.diffusion.sampler import Array, StepGuidance
from tumorcast.diffusion.schedule import Step
from tumorcast.engines.batches import ran_out_of_memory
from tumorcast.engines.guarded import GuardedEngine, GuardedVolume
from tumorcast.engines.trial import try_out
from tumorcast.errors import EngineError

# Each as a library says it: those of this machine's own in the tests below, the others from their binaries and issues.
WORDS = {
    "arena of ONNX Runtime": "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9",
    "arena with a limit": "Available memory of 10 is smaller than requested bytes of 20",
    "CUDA": "CUDA failure 2: out of memory ; GPU=0 ; hostname=n1",
    "cuBLAS": "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    "cuDNN 9": "CUDNN failure 4002: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "TensorRT": "[E] Requested GPU memory (9 bytes) could not be allocated. OutOfMemory (Requested size was 9",
    "torch": "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB",
    "C++": "std::bad_alloc",
}
OTHERS = [
    "CUDA failure 719: unspecified launch failure",
    "CUDA error: an illegal memory access was encountered",
    "Got invalid dimensions for input: images",
    "no kernel image is available for execution on the device",
]


@pytest.mark.parametrize("library", WORDS)
def test_words_of_memory_are_known(library: str) -> None:
    assert ran_out_of_memory(RuntimeError(WORDS[library]))


@pytest.mark.parametrize("words", OTHERS)
def test_other_faults_are_not_taken_for_it(words: str) -> None:
    assert not ran_out_of_memory(RuntimeError(words))


REAL = {
    "torch": "import torch; torch.zeros(1 << 40)",
    "numpy": "import numpy; numpy.zeros(1 << 45)",
    "onnxruntime": (
        "import onnxruntime, numpy; from onnx import helper, TensorProto as T; "
        "node = helper.make_node('Expand', ['x', 's'], ['y']); "
        "ins = [helper.make_tensor_value_info('x', T.FLOAT, [1]), helper.make_tensor_value_info('s', T.INT64, [1])]; "
        "graph = helper.make_graph([node], 'g', ins, [helper.make_tensor_value_info('y', T.FLOAT, None)]); "
        "model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9); "
        "s = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider']); "
        "s.run(None, {'x': numpy.ones(1, numpy.float32), 's': numpy.array([1 << 40])})"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("library", REAL)
def test_what_they_really_say_here_is_known(library: str) -> None:
    ended = subprocess.run([sys.executable, "-c", REAL[library]], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ran_out_of_memory(RuntimeError(ended.stderr.strip().splitlines()[-1])), ended.stderr


@dataclass
class Small(SlowEngine):
    """A device that holds so many images, and says so as torch does, or fails in other words."""

    most: int = 2
    words: str = WORDS["torch"]
    calls: list[int] = field(default_factory=list)

    def _hold(self, images: Array) -> None:
        self.calls.append(len(images))
        if len(images) > self.most:
            raise RuntimeError(self.words)

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """That of the SlowEngine."""
        self._hold(x)
        return super().encode_step(x, step, previous_eps)

    def guided(self, x: Array, step: Step, guidance: StepGuidance) -> Array:
        """That of the SlowEngine."""
        self._hold(x)
        return super().guided(x, step, guidance)

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """The brightness."""
        self._hold(x)
        return np.asarray(x.mean(axis=(1, 2, 3)), np.float32)

    def segment(self, images: Array) -> Array:
        """That of the SlowEngine."""
        self._hold(images)
        return super().segment(images)


def images(rows: int) -> Array:
    return np.random.default_rng(rows).standard_normal((rows, 4, 64, 64)).astype(np.float32)


def test_torch_goes_on_with_half_the_images(caplog: pytest.LogCaptureFixture) -> None:
    x, step, freed = images(7), Step(60, 0.8, 0.85), []
    maps = np.random.default_rng(0).random((7, 64, 64), np.float32)
    guidance = StepGuidance(np.arange(7, dtype=np.float32), maps, maps, gain=0.5)
    small, whole = GuardedEngine(Small(most=2), lambda: freed.append(1)), Small(most=7)
    for found, wanted in zip(
        [*small.guided_step(x, step, x, guidance), *small.encode_step(x, step, x), small.sizes(x, 60, maps)],
        [*whole.guided_step(x, step, x, guidance), *whole.encode_step(x, step, x), whole.sizes(x, 60, maps)],
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(small.segment(x), whole.segment(x))
    assert small.engine.calls[:6] == [7, 3, 1, 1, 1, 1]
    assert [record.getMessage().split("; ")[1] for record in caplog.records] == ["going on with 3", "going on with 1"]
    assert len(freed) == 2


def test_torch_takes_all_that_it_is_given_while_it_can() -> None:
    engine = GuardedEngine(Small(most=9), lambda: None)
    engine.segment(images(3))
    engine.segment(images(9))
    assert engine.engine.calls == [3, 9]


def test_one_image_that_is_too_much_ends_it() -> None:
    with pytest.raises(EngineError, match=r"cpu: out of memory with one image of 64 px \(CUDA out of memory"):
        GuardedEngine(Small(most=0), lambda: None).segment(images(3))


def test_what_torch_raises_is_an_engines_fault() -> None:
    engine = GuardedEngine(Small(most=0, words=OTHERS[1]), lambda: None)
    with pytest.raises(EngineError, match="torch failed on cpu: CUDA error: an illegal memory access"):
        engine.segment(images(1))
    with pytest.raises(EngineError, match="illegal memory"):
        try_out(engine)


def test_so_it_is_of_the_network_on_volumes() -> None:
    class Lost:
        sha256, contrasts, voxel_mm, provider, device = "", (), 2.0, None, "cuda:0"

        def answer(self, planes: Array) -> Array:
            raise RuntimeError(OTHERS[0])

    with pytest.raises(EngineError, match="torch failed on cuda:0: CUDA failure 719"):
        GuardedVolume(Lost()).answer(np.zeros((3, 8, 8, 8), np.float32))


def test_numbers_that_are_none_are_an_engines_fault() -> None:
    class NoNumbers(SlowEngine):
        def segment(self, images: Array) -> Array:
            return np.full((len(images), 64, 64), np.nan, np.float32)

    try_out(SlowEngine())
    with pytest.raises(EngineError, match="cpu: computes what is no number"):
        try_out(NoNumbers())
