"""How many images a device computes at once: as many as are asked for, and half of them when its memory runs out."""

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tumorcast.diffusion.sampler import Array
from tumorcast.errors import EngineError

log = logging.getLogger(__name__)

# How the libraries say it, in small letters: ONNX Runtime's arena, CUDA and cuBLAS, cuDNN, TensorRT, torch, numpy.
OUT_OF_MEMORY = (
    *("failed to allocate", "smaller than requested bytes", "bfcarena", "bad_alloc"),
    *("out of memory", "alloc_failed", "allocation_failed", "outofmemory (requested"),
    *("can't allocate memory", "unable to allocate"),
)
CUDA_WORDS = re.compile(r"\b(CUDA|CUDNN|CUBLAS|CUFFT|CURAND) failure -?\d+: [^;\n]+")
Feeds = dict[str, np.ndarray[Any, Any]]


class Batches:
    """rows: how many images go through `device` at once, from now on. image_size: of an image, in pixels a side."""

    WITHOUT_LIMIT = 1 << 30

    def __init__(self, rows: int, device: str, image_size: int) -> None:
        self.rows, self.device, self.image_size = rows, device, image_size

    def run(self, count: int, compute: Callable[[slice], list[Array]]) -> list[Array]:
        """The outputs of `compute` of blocks of `count` rows, all of as many rows as these.

        Raises EngineError if the memory does not hold one row, and whatever else `compute` does.
        """
        done, parts = 0, []
        while done < count:
            block = slice(done, min(done + self.rows, count))
            try:
                parts.append(compute(block))
            except Exception as fault:
                if not ran_out_of_memory(fault):
                    raise
                self._halve(count if self.rows == self.WITHOUT_LIMIT else self.rows, fault)
                continue
            done = block.stop
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _halve(self, rows: int, fault: Exception) -> None:
        if rows == 1:
            raise EngineError(
                f"{self.device}: out of memory with one image of {self.image_size} px ({first_line(fault)}); "
                "use a device with more memory, or --provider cpu"
            ) from fault
        self.rows = rows // 2
        log.warning("%s: out of memory with %d images a call; going on with %d", self.device, rows, self.rows)


def ran_out_of_memory(fault: Exception) -> bool:
    """Whether a library's words tell of memory.

    >>> ran_out_of_memory(RuntimeError("CUDNN_STATUS_ALLOC_FAILED")), ran_out_of_memory(ValueError("bad shape"))
    (True, False)
    """
    return isinstance(fault, MemoryError) or any(words in str(fault).lower() for words in OUT_OF_MEMORY)


def first_line(fault: BaseException) -> str:
    """The first line of what went wrong, or in the midst of C++ the words of CUDA.

    >>> first_line(RuntimeError("/src/cuda_call.cc:154 CudaCall(x) CUDA failure 719: launch failure ; GPU=0 ; host=n"))
    'CUDA failure 719: launch failure'
    """
    of_cuda = CUDA_WORDS.search(str(fault))
    if of_cuda is not None:
        return of_cuda[0].strip()
    return str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
