"""What a trained network is, as its RUN folder tells it. No torch is needed to read it.

A RUN folder holds run.json (kind, architecture, contrasts, settings, provenance), weights.safetensors (what is used:
the averaged weights), checkpoint.safetensors (what training resumes from), log.jsonl, loss.png, sheets/, tensorboard/.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tumorcast.errors import InputError
from tumorcast.settings import Architecture, NetworkKind, VolumeArchitecture

RUN_FILE, WEIGHTS_FILE = "run.json", "weights.safetensors"


@dataclass(frozen=True)
class RunInfo:
    """What a trained network is and how it came to be."""

    kind: NetworkKind
    architecture: Architecture | VolumeArchitecture
    contrasts: tuple[str, ...]
    noise_levels: int
    provenance: dict[str, Any]

    @property
    def plane(self) -> Architecture:
        """The architecture of a network on slices."""
        assert isinstance(self.architecture, Architecture)
        return self.architecture

    @property
    def volume(self) -> VolumeArchitecture:
        """The architecture of a network on volumes."""
        assert isinstance(self.architecture, VolumeArchitecture)
        return self.architecture

    def to_json(self, commit: str | None) -> str:
        """The text of run.json; the commit of the code is told where it is known."""
        record = asdict(self) | {"architecture": self.architecture.model_dump()}
        if commit is not None:
            record["commit"] = commit
        return json.dumps(record, indent=2) + "\n"


def kind_of(record: dict[str, Any]) -> NetworkKind:
    """The kind that a record tells. Before volumes, "progression" was the network on slices, with sides in pixels."""
    kind = NetworkKind(record["kind"])
    if kind is NetworkKind.PROGRESSION and "image_size" in record["architecture"]:
        return NetworkKind.SLICE_PROGRESSION
    return kind


def shape_of(kind: NetworkKind) -> type[Architecture] | type[VolumeArchitecture]:
    """Which settings describe the shape of a network of this kind."""
    return VolumeArchitecture if kind is NetworkKind.PROGRESSION else Architecture


def read_run_info(run: Path) -> RunInfo:
    """What the network in folder `run` is. Raises InputError if run.json is missing or not one of ours."""
    path = run / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        kind = kind_of(record)
        return RunInfo(
            kind=kind,
            architecture=shape_of(kind).of(record["architecture"], str(path)),
            contrasts=tuple(record["contrasts"]),
            noise_levels=int(record["noise_levels"]),
            provenance=dict(record["provenance"]),
        )
    except OSError:
        raise InputError(f"{path}: not found; give a RUN folder, as `tumorcast train` makes it") from None
    except (ValueError, KeyError, TypeError) as fault:
        raise InputError(f"{path}: not a run of this version of tumorcast ({fault!r}); train it again") from None
