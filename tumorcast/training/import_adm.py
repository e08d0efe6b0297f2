"""Read checkpoints of openai/guided-diffusion ("ADM") into RUN folders: what a network is, is told by its shapes.

Ours have the same parameter names, so weights are copied as they are, in float32. No entry may be left over and none
may be missing. This is the one module that reads torch's own files, and only what holds tensors and no code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tumorcast.durable import sha256_of, write_text
from tumorcast.errors import InputError, UsageError
from tumorcast.provenance import commit
from tumorcast.records import Contrast
from tumorcast.settings import Architecture, NetworkKind, Settings
from tumorcast.training.adm_shapes import Shapes, check_same, infer_denoiser, infer_regressor
from tumorcast.training.checkpoint import save_tensors
from tumorcast.training.networks import build
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo
from tumorcast.version import VERSION

WRAPPERS = ("state_dict", "model", "ema")
PARALLEL = "module."  # what DistributedDataParallel puts before every name
HOW_TO_SAVE = "save the weights alone: torch.save(network.state_dict(), 'model.pt')"
FOLDERS = {NetworkKind.DENOISER: "denoiser", NetworkKind.ATTENTION_POOL_REGRESSOR: "regressor"}

State = dict[str, Tensor]


class ImportSettings(Settings):
    """What shapes cannot tell.

    image_size: None takes it from the regressor. denoiser_head_channels: None is one head.
    """

    image_size: int | None = Field(None, ge=8)
    denoiser_head_channels: int | None = Field(None, ge=1)
    regressor_head_channels: int = Field(64, ge=1)
    contrasts: tuple[Contrast, ...] = tuple(Contrast)
    noise_levels: int = Field(1000, ge=1, le=1000)

    @model_validator(mode="after")
    def _check_contrasts(self) -> Self:
        if len(set(self.contrasts)) < len(self.contrasts):
            raise ValueError(f"--contrasts {','.join(self.contrasts)}: names one twice; name each channel's own")
        return self


@dataclass(frozen=True)
class ImportedNetwork:
    """A network that was read whole and checked."""

    info: RunInfo
    state: State

    @property
    def folder(self) -> str:
        """The name of its RUN folder."""
        return FOLDERS[self.info.kind]

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(value.numel() for value in self.state.values())


def import_adm(
    denoiser: Path | None, regressor: Path | None, out: Path, settings: ImportSettings
) -> list[ImportedNetwork]:
    """Write the networks of these checkpoints as RUN folders below `out`; nothing is written unless all can be used.

    Raises UsageError where the options do not suffice or contradict the weights, InputError where a file is no such
    checkpoint or `out` is not empty.
    """
    if denoiser is None and regressor is None:
        raise UsageError("tumorcast import-adm: nothing to do; give --denoiser, --regressor or both")
    if regressor is None and settings.image_size is None:
        raise UsageError(
            f"{denoiser}: a denoiser's weights fit any size of image; give the one it was trained on "
            "(--image-size 256 is the paper's), or its regressor too"
        )
    _check_empty(out)
    networks = []
    size = settings.image_size
    for kind, path in ((NetworkKind.ATTENTION_POOL_REGRESSOR, regressor), (NetworkKind.DENOISER, denoiser)):
        if path is not None:
            networks.append(_read(path, kind, size, settings))
            size = networks[-1].info.plane.image_size  # a regressor's pool tells it, so it is read first
    for network in networks:
        _write(out / network.folder, network)
    return networks


def _check_empty(out: Path) -> None:
    try:
        taken = out.exists() and any(out.iterdir())
    except OSError as fault:
        raise InputError(f"{out}: cannot be written to ({fault.strerror}); choose another --out") from None
    if taken:
        raise InputError(f"{out}: not empty; networks need a new or empty folder: remove it or choose another --out")


def _read(path: Path, kind: NetworkKind, image_size: int | None, settings: ImportSettings) -> ImportedNetwork:
    """The network of a checkpoint, once each of its parameters was found and no other."""
    with _errors_name(path):
        state = read_state(path)
        arch = _infer(kind, shapes_of(state), image_size, settings)
        _check_contrasts(arch, settings.contrasts)
        check_same(shapes_of(state), expected_shapes(kind, arch))
        state = {name: _widened(name, state.pop(name)) for name in list(state)}  # popped: one copy in memory, not two
    provenance = {"version": VERSION, "imported": "adm", "source": path.name, "source_sha256": sha256_of(path)}
    info = RunInfo(kind, arch, tuple(map(str, settings.contrasts)), settings.noise_levels, provenance)
    return ImportedNetwork(info, state)


def _infer(kind: NetworkKind, shapes: Shapes, image_size: int | None, settings: ImportSettings) -> Architecture:
    if kind is NetworkKind.DENOISER:
        assert image_size is not None
        return infer_denoiser(shapes, image_size=image_size, head_channels=settings.denoiser_head_channels)
    return infer_regressor(shapes, image_size=image_size, head_channels=settings.regressor_head_channels)


def _check_contrasts(arch: Architecture, contrasts: tuple[Contrast, ...]) -> None:
    if len(contrasts) != arch.in_channels:
        raise UsageError(
            f"takes {arch.in_channels} channels, but --contrasts {','.join(contrasts)} names {len(contrasts)}; "
            "name one for each channel, in their order"
        )


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Errors of the block name the file."""
    try:
        yield
    except (InputError, UsageError) as fault:
        raise type(fault)(f"{path}: {fault}") from None


def shapes_of(state: State) -> Shapes:
    """The shape of every entry."""
    return {name: tuple(value.shape) for name, value in state.items()}


def expected_shapes(kind: NetworkKind, arch: Architecture) -> Shapes:
    """The shapes that our network of this architecture has; no memory is taken for it."""
    with torch.device("meta"):
        return shapes_of(build(kind, arch).state_dict())


def _widened(name: str, value: Tensor) -> Tensor:
    """`value` in float32 and in memory of its own. Raises InputError for what is no finite number."""
    if not value.is_floating_point() or value.layout is not torch.strided:
        raise InputError(f"{name}: {value.dtype} in layout {value.layout}, expected dense real numbers; {HOW_TO_SAVE}")
    wide = value.detach().to(torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(wide).all()):
        raise InputError(f"{name}: has NaN or infinite numbers; give a checkpoint from before training failed")
    return wide


def read_state(path: Path) -> State:
    """The tensors of a checkpoint by parameter name, out of any wrapping. Raises InputError if it is none."""
    state = _unwrapped(_loaded(path))
    if all(name.startswith(PARALLEL) for name in state):
        return {name.removeprefix(PARALLEL): value for name, value in state.items()}
    return state


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as fault:
        raise InputError(f"cannot be read ({fault.strerror}); give a checkpoint of guided-diffusion") from None
    except Exception as fault:  # what is no file of torch, or holds code, fails in many ways that are one to the user
        raise InputError(
            f"not a checkpoint of plain tensors ({type(fault).__name__}), and nothing else is unpickled; {HOW_TO_SAVE}"
        ) from None


def _unwrapped(loaded: Any) -> State:
    """The state dict itself, or the one under a customary name; what stands beside that is not looked at."""
    if not isinstance(loaded, dict) or not loaded:
        raise InputError(f"holds {_kind_of(loaded)}, expected parameters by name; {HOW_TO_SAVE}")
    within = [name for name in WRAPPERS if isinstance(loaded.get(name), dict)]
    if len(within) > 1:
        raise InputError(f"holds {len(within)} networks ({', '.join(within)}); save the one that is meant alone")
    state = loaded[within[0]] if within else loaded
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"holds {_kind_of(value)} as {name!r}, expected parameters by name; {HOW_TO_SAVE}")
    return dict(state)


def _kind_of(value: Any) -> str:
    return "nothing" if value == {} else f"a {type(value).__name__}"


def _write(run: Path, network: ImportedNetwork) -> None:
    """run.json last: a folder that has it is whole."""
    save_tensors(run / WEIGHTS_FILE, network.state, {"kind": str(network.info.kind), "imported": "adm"})
    write_text(run / RUN_FILE, network.info.to_json(commit()))
