"""An engine bundle on disk: what `tumorcast-export` makes and an engine opens. No torch is needed to read it.

BUNDLE/
  manifest.json         what the networks are, for which images, how well the graphs match the reference, all sums
  weights.safetensors   every weight once, as "denoiser.…", "regressor.…", "segmenter.…"; the graphs refer to it
  encode.onnx, guided.onnx, size.onnx, segment.onnx
  survey.onnx, box.onnx where the regressor is the dense one; bundles exported before they were known have none
  progress.onnx         and weights "progression.…", where there is such a network, on slices or on volumes

A bundle may hold the progression network on volumes alone: then it has no other graph, and foretells no images.
"""

import hashlib
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from tumorcast.diffusion.box import box_multiple
from tumorcast.durable import sha256_of
from tumorcast.engines.protocol import ModelImages, ModelInfo
from tumorcast.errors import InputError
from tumorcast.settings import Architecture, NetworkKind, Precision, Settings, VolumeArchitecture
from tumorcast.training.run_info import RunInfo, kind_of, shape_of

MANIFEST_FILE, WEIGHTS_FILE = "manifest.json", "weights.safetensors"
FORMAT_VERSION: Literal[1] = 1
IMAGE_NETWORKS = {"denoiser", "regressor", "segmenter"}
PROGRESSION = "progression"  # a network that a bundle may have, or have alone


class Graph(StrEnum):
    """The graphs of a bundle; SURVEY and BOX may be there, PROGRESS is where the progression network is."""

    ENCODE = "encode"
    GUIDED = "guided"
    SIZE = "size"
    SEGMENT = "segment"
    SURVEY = "survey"
    BOX = "box"
    PROGRESS = "progress"

    @property
    def file(self) -> str:
        """The name of its file in the bundle."""
        return f"{self}.onnx"


IMAGE_GRAPHS = (Graph.ENCODE, Graph.GUIDED, Graph.SIZE, Graph.SEGMENT)
BOX_GRAPHS = (Graph.SURVEY, Graph.BOX)


class NetworkEntry(Settings):
    """A network of the bundle, as its run.json describes it. contrasts: None are the manifest's."""

    kind: NetworkKind
    architecture: Architecture | VolumeArchitecture
    noise_levels: int
    provenance: dict[str, Any]
    contrasts: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_kind(cls, record: Any) -> Any:
        """The kind by its name of today, see kind_of."""
        if isinstance(record, dict) and isinstance(record.get("architecture"), dict) and "kind" in record:
            return record | {"kind": kind_of(record)}
        return record

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if not isinstance(self.architecture, shape_of(self.kind)):
            raise ValueError(f"architecture: not one of a {self.kind}")
        return self

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Contrasts are told only where they are not the manifest's."""
        return {name: value for name, value in handler(self).items() if name != "contrasts" or value is not None}


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

    contrasts: of the images, or of the progression network where that is alone. size_reader: None where it is alone.
    sha256: of every file beside the manifest. activation_bytes: memory that one image needs in a graph beside the
    weights; a volume's, with sides of LEAST_SIDES. parity: by "graph.output", as measured by `checked_with` (provider,
    version).
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    format_version: Literal[1] = FORMAT_VERSION
    contrasts: tuple[str, ...]
    intensities: str = "percentiles .5 to 99.5 of the brain mapped to [-1, 1], background -1 (`tumorcast prepare`)"
    schedule: NoiseSchedule = NoiseSchedule()
    networks: dict[str, NetworkEntry]
    size_reader: NetworkKind | None = Field(None, alias="judge")  # the name that it has in manifest.json
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
    def for_images(self) -> bool:
        """Whether there are networks of images; else there is the progression network on volumes alone."""
        return self.networks.keys() != {PROGRESSION}

    @property
    def progression(self) -> NetworkKind | None:
        """The kind of the progression network, where there is one."""
        entry = self.networks.get(PROGRESSION)
        return None if entry is None else entry.kind

    @property
    def computes_in_boxes(self) -> bool:
        """Whether the graphs for boxes are there."""
        return self.for_images and any(graph.file in self.sha256 for graph in BOX_GRAPHS)

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The graphs that these networks need."""
        images = IMAGE_GRAPHS if self.for_images else ()
        if self.computes_in_boxes:
            images = (*images, *BOX_GRAPHS)
        return images if self.progression is None else (*images, Graph.PROGRESS)

    @property
    def slice_graphs(self) -> tuple[Graph, ...]:
        """Those that take slices, and that an engine runs."""
        on_slices = self.progression is NetworkKind.SLICE_PROGRESSION
        return tuple(graph for graph in self.graphs if graph is not Graph.PROGRESS or on_slices)

    def network(self, name: str) -> RunInfo:
        """What a network is."""
        entry = self.networks[name]
        contrasts = self.contrasts if entry.contrasts is None else entry.contrasts
        return RunInfo(entry.kind, entry.architecture, contrasts, entry.noise_levels, entry.provenance)

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        alone = self.progression is NetworkKind.PROGRESSION and not self.for_images
        files = {WEIGHTS_FILE, *(graph.file for graph in self.graphs)}
        for name, present, required in (
            ("networks", self.networks.keys() - {PROGRESSION}, set() if alone else IMAGE_NETWORKS),
            ("sha256", self.sha256.keys(), files),
        ):
            if present != required:
                has, needs = (", ".join(sorted(names)) or "none" for names in (present, required))
                raise ValueError(f"{name}: has {has}, must have {needs}")
        if self.progression not in (None, NetworkKind.PROGRESSION, NetworkKind.SLICE_PROGRESSION):
            raise ValueError(f"networks: {PROGRESSION} is a {self.progression}")
        if self.for_images and self.size_reader is None:
            raise ValueError("judge: Field required")
        return self


def is_bundle(folder: Path) -> bool:
    """Whether `folder` holds a bundle."""
    return (folder / MANIFEST_FILE).is_file()


class Bundle:
    """An opened bundle: its folder and its manifest."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def open(cls, bundle_folder: Path, graphs: Collection[Graph] = tuple(Graph)) -> Self:
        """Read the manifest and compare the weights, and the files of these graphs, with their sums.

        Raises InputError if the manifest is missing or of another version, or a file is missing or changed.
        """
        manifest = read_manifest(bundle_folder)
        looked_at = {WEIGHTS_FILE, *(graph.file for graph in graphs)}
        for name, digest in manifest.sha256.items():
            path = bundle_folder / name
            if name not in looked_at:
                continue
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
    def sha256(self) -> str:
        """One sum over graphs and weights."""
        sums = "\n".join(f"{name} {digest}" for name, digest in sorted(self.manifest.sha256.items()))
        return hashlib.sha256(sums.encode()).hexdigest()

    @property
    def info(self) -> ModelInfo:
        """What the networks of images are for. Raises InputError where there are none."""
        manifest, images = self.manifest, images_in(self.folder, self.manifest)
        assert manifest.size_reader is not None
        return ModelInfo(
            contrasts=images.contrasts,
            image_size=images.image_size,
            noise_levels=min(manifest.networks[name].noise_levels for name in ("denoiser", "regressor")),
            size_reader=manifest.size_reader,
            sha256=self.sha256,
            progression=manifest.progression,
            box_multiple=self._box_multiple if manifest.computes_in_boxes else None,
        )

    @property
    def _box_multiple(self) -> int | None:
        networks = (self.manifest.network(name) for name in ("denoiser", "regressor"))
        return box_multiple(*(network.plane for network in networks))


def images_in(bundle_folder: Path, manifest: Manifest) -> ModelImages:
    """The slices that the networks of a bundle take. Raises InputError where there are no networks of images."""
    if not manifest.for_images:
        raise InputError(
            f"{bundle_folder}: holds the progression network on volumes alone, which makes no images; give a bundle of "
            "a denoiser, a regressor and a segmenter too (`tumorcast export`), or the name of a shipped model"
        )
    return ModelImages(manifest.network("denoiser").plane.image_size, manifest.contrasts)


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
