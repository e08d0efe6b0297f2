"""An engine bundle on disk: what `tumorcast-export` makes and an engine opens. No torch is needed to read it.

BUNDLE/
  manifest.json         what the networks are, for which images, how well the graphs match the reference, all sums
  weights.safetensors   every weight once, as "denoiser.…", "regressor.…", "segmenter.…"; the graphs refer to it
  encode.onnx, guided.onnx, size.onnx, segment.onnx
  progress.onnx         and weights "progression.…", where there is such a network
"""

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from tumorcast.durable import sha256_of
from tumorcast.engines.protocol import ModelInfo
from tumorcast.errors import InputError
from tumorcast.settings import Architecture, NetworkKind, Precision, Settings

MANIFEST_FILE, WEIGHTS_FILE = "manifest.json", "weights.safetensors"
FORMAT_VERSION: Literal[1] = 1
NETWORKS = {"denoiser", "regressor", "segmenter"}
PROGRESSION = "progression"  # a network that a bundle may have


class Graph(StrEnum):
    """The graphs of a bundle; PROGRESS is there where the progression network is."""

    ENCODE = "encode"
    GUIDED = "guided"
    SIZE = "size"
    SEGMENT = "segment"
    PROGRESS = "progress"

    @property
    def file(self) -> str:
        """The name of its file in the bundle."""
        return f"{self}.onnx"


class NetworkEntry(Settings):
    """A network of the bundle, as its run.json describes it."""

    kind: NetworkKind
    architecture: Architecture
    noise_levels: int
    provenance: dict[str, Any]


class NoiseSchedule(Settings):
    """The diffusion schedule that the networks were trained for (β linear from first to last)."""

    steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02


class TensorParity(Settings):
    """The largest difference of one output from the torch reference, where it was, and what is allowed."""

    difference: float = Field(ge=0, allow_inf_nan=True)
    limit: float = Field(gt=0)
    where: str


class Manifest(Settings):
    """What is in a bundle.

    sha256: of every file beside the manifest. activation_bytes: memory that one image needs in a graph beside the
    weights. parity: by "graph.output", as measured by `checked_with` (provider, version).
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    format_version: Literal[1] = FORMAT_VERSION
    contrasts: tuple[str, ...]
    intensities: str = "percentiles .5 to 99.5 of the brain mapped to [-1, 1], background -1 (`tumorcast prepare`)"
    schedule: NoiseSchedule = NoiseSchedule()
    networks: dict[str, NetworkEntry]
    size_reader: NetworkKind = Field(alias="judge")  # the name that it has in manifest.json
    precision: Precision
    opset: int
    max_batch: int = Field(ge=1)
    sha256: dict[str, str]
    activation_bytes: dict[str, int]
    versions: dict[str, str | None]
    commit: str | None = None
    checked_with: str = ""
    parity: dict[str, TensorParity] = Field(default_factory=dict)

    @property
    def image_size(self) -> int:
        """Pixels a side of the slices that the networks take."""
        return self.networks["denoiser"].architecture.image_size

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The graphs that these networks need."""
        return tuple(graph for graph in Graph if graph is not Graph.PROGRESS or PROGRESSION in self.networks)

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        files = {WEIGHTS_FILE, *(graph.file for graph in self.graphs)}
        for name, present, required in (
            ("networks", self.networks.keys() - {PROGRESSION}, NETWORKS),
            ("sha256", self.sha256.keys(), files),
        ):
            if present != required:
                has, needs = (", ".join(sorted(names)) for names in (present, required))
                raise ValueError(f"{name}: has {has}, must have {needs}")
        return self


def is_bundle(folder: Path) -> bool:
    """Whether `folder` holds a bundle."""
    return (folder / MANIFEST_FILE).is_file()


class Bundle:
    """An opened bundle: its folder and its manifest."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def open(cls, bundle_folder: Path) -> Self:
        """Read the manifest and compare every file with its sum.

        Raises InputError if the manifest is missing or of another version, or a file is missing or changed.
        """
        manifest = read_manifest(bundle_folder)
        for name, digest in manifest.sha256.items():
            path = bundle_folder / name
            if not path.is_file():
                raise InputError(f"{path}: missing; copy the bundle whole, or export it again")
            if sha256_of(path) != digest:
                raise InputError(f"{path}: not the file that {MANIFEST_FILE} tells of; export the bundle again")
        return cls(bundle_folder, manifest)

    def graph(self, graph: Graph) -> Path:
        """The file of a graph."""
        return self.folder / graph.file

    @property
    def weights(self) -> Path:
        """The file of all weights."""
        return self.folder / WEIGHTS_FILE

    @property
    def info(self) -> ModelInfo:
        """What the networks are for; the sum is over graphs and weights."""
        manifest = self.manifest
        sums = "\n".join(f"{name} {digest}" for name, digest in sorted(manifest.sha256.items()))
        return ModelInfo(
            contrasts=manifest.contrasts,
            image_size=manifest.image_size,
            noise_levels=min(manifest.networks[name].noise_levels for name in ("denoiser", "regressor")),
            size_reader=manifest.size_reader,
            sha256=hashlib.sha256(sums.encode()).hexdigest(),
            progression=PROGRESSION in manifest.networks,
        )


def read_manifest(bundle_folder: Path) -> Manifest:
    """The manifest of a bundle. Raises InputError if it is missing or not of this version."""
    path = bundle_folder / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path}: not found; give a folder made by `tumorcast export`") from None
    except (ValidationError, ValueError) as fault:
        reason = str(fault).splitlines()[-1].strip() if not isinstance(fault, ValidationError) else _first(fault)
        raise InputError(f"{path}: not a manifest of this version ({reason}); export the bundle again") from None


def write_manifest(bundle_folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a bundle, in place of one that is there."""
    (bundle_folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _first(fault: ValidationError) -> str:
    first = fault.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}" if key else str(first["msg"]).removeprefix("Value error, ")
