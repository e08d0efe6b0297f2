"""weights.safetensors read with numpy alone, and the sum over one network's weights. No torch is needed."""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tumorcast.errors import InputError
from tumorcast.training.run_info import RunInfo

Tensors = Mapping[str, npt.NDArray[np.float32]]

TYPES: dict[str, npt.DTypeLike] = {"F16": "<f2", "F32": "<f4"}


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in a file: its type, as safetensors names it, shape, offset and length in bytes."""

    type: str
    shape: tuple[int, ...]
    offset: int
    length: int


def tensor_places(path: Path) -> dict[str, TensorPlace]:
    """Each tensor's place, from the header of a safetensors file. Raises ValueError or OSError if it is not one."""
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError("it is too short")
        (size,) = struct.unpack("<Q", start)
        header: dict[str, Any] = json.loads(file.read(size))
    places = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, past = entry["data_offsets"]
            places[name] = TensorPlace(entry["dtype"], tuple(entry["shape"]), 8 + size + first, past - first)
    return places


def read_network(path: Path, network: str) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors "network.…" of a bundle's weights, widened to float32, without that name before them.

    Raises InputError if the file cannot be read.
    """
    before = f"{network}."
    try:
        places = tensor_places(path)
        with path.open("rb") as file:
            return {
                name.removeprefix(before): _read(file, place)
                for name, place in places.items()
                if name.startswith(before)
            }
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise InputError(f"{path}: not a file of weights ({fault}); export the bundle again") from None


def _read(file: BinaryIO, place: TensorPlace) -> npt.NDArray[np.float32]:
    file.seek(place.offset)
    content: npt.NDArray[Any] = np.frombuffer(file.read(place.length), TYPES[place.type])
    return content.astype(np.float32).reshape(place.shape)


def network_sum(info: RunInfo, tensors: Tensors) -> str:
    """SHA-256 of what a network computes from: kind, architecture, contrasts, and its weights in float32.

    So it is the same in its RUN folder and in every bundle that has the network.
    """
    told = {"kind": info.kind, "architecture": info.architecture.model_dump(), "contrasts": info.contrasts}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\n{name} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value, "<f4").tobytes())
    return digest.hexdigest()
