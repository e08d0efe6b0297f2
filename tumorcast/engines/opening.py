"""Open the engine that a user asked for: a bundle in ONNX Runtime, or torch on RUN folders or on a bundle."""

from dataclasses import dataclass
from pathlib import Path

from tumorcast.engines.bundle import Bundle, is_bundle
from tumorcast.engines.gpu_libraries import apply_settings
from tumorcast.engines.guarded import GuardedEngine
from tumorcast.engines.locating import locate_all
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.protocol import Engine
from tumorcast.engines.trial import try_out
from tumorcast.errors import EngineError, UsageError
from tumorcast.extra import how_to_install
from tumorcast.settings import Precision, Provider


@dataclass(frozen=True)
class EngineChoice:
    """What to open. model_paths: folders, or the name of a shipped model, as `locate_all` takes them.

    provider: None is ONNX Runtime on the CPU for a bundle, and torch for networks.
    device: cpu, cuda or cuda:1; None is the CPU, or the first GPU for a provider that needs one. rows: the largest
    batch asked for. cache: where TensorRT's engines lie; None is a folder in the bundle. precision: of torch's
    denoiser, with the networks in the form of bundles; None is the reference, in float32.
    """

    model_paths: tuple[Path, ...]
    provider: Provider | None = None
    device: str | None = None
    rows: int | None = None
    cache: Path | None = None
    precision: Precision | None = None


def open_engine(choice: EngineChoice) -> Engine:
    """The engine.

    Raises InputError where there is no model, UsageError for what does not go together, EngineError for what is not
    here.
    """
    folders = locate_all(choice.model_paths)
    if choice.provider is Provider.TORCH or not is_bundle(folders[0]):
        return _torch(choice, folders)
    provider = choice.provider or Provider.CPU
    check_precision_asked(provider, choice.precision)
    return OnnxEngine(
        Bundle.open(folders[0]),
        provider,
        device=device_index(provider, choice.device),
        rows=choice.rows,
        cache=choice.cache,
    )


def _torch(choice: EngineChoice, folders: list[Path]) -> Engine:
    check_torch(choice.provider, folders)
    apply_settings()
    from tumorcast.engines.model import load_bundle, load_model_set
    from tumorcast.engines.torch_engine import TorchEngine, free_memory
    from tumorcast.engines.torch_graphs import TorchGraphEngine

    model = load_bundle(Bundle.open(folders[0])) if is_bundle(folders[0]) else load_model_set(folders)
    if choice.precision is not None:
        return TorchGraphEngine(model, choice.precision, choice.device or "cpu")
    return GuardedEngine(TorchEngine(model, choice.device or "cpu"), free_memory)


def check_precision_asked(provider: Provider, precision: Precision | None) -> None:
    """Raises UsageError where a provider has no choice of it."""
    if precision is not None and provider is not Provider.TORCH:
        raise UsageError(
            f"--precision {precision}: is for --provider torch; with --provider {provider} a bundle has that of its "
            "export (`tumorcast export --precision`); leave it out"
        )


def make_ready(engine: Engine) -> None:
    """Open ahead what an engine opens at its first use; on a GPU, have it compute once.

    So what is missing is told before any work is begun. Raises EngineError.
    """
    if isinstance(engine, OnnxEngine):
        engine.open_all()
    if engine.device.startswith("cuda"):
        try_out(engine)


def torch_sees_gpu() -> bool:
    """Whether torch is here, is a build for CUDA, and finds a GPU."""
    apply_settings()
    try:
        import torch
    except ModuleNotFoundError:  # which `check_torch` tells with a remedy
        return False
    return bool(torch.cuda.is_available())


def check_torch(provider: Provider | None, folders: list[Path]) -> None:
    """Raises UsageError if another provider than torch is to run RUN folders, EngineError if torch is not here."""
    of_bundle = is_bundle(folders[0])
    if provider not in (None, Provider.TORCH):
        raise UsageError(
            f"--provider {provider}: {folders[0]} holds no engine bundle; make one "
            f"(`tumorcast export {' '.join(map(str, folders))} --out BUNDLE`), or leave out --provider"
        )
    try:
        import tumorcast.engines.torch_engine  # noqa: F401 - whether it can be imported
    except ModuleNotFoundError as fault:
        needs, otherwise = "RUN folders need", "give an engine bundle"
        if of_bundle:
            needs, otherwise = "--provider torch needs", "leave out --provider torch"
        raise EngineError(
            f"{folders[0]}: {fault.name} is not installed, which {needs}; {how_to_install('train')}; or {otherwise}"
        ) from None


def device_index(provider: Provider, device: str | None) -> int:
    """The GPU's number in "cuda:1"; 0 for the CPU.

    >>> device_index(Provider.CUDA, "cuda:1"), device_index(Provider.TENSORRT, None), device_index(Provider.CPU, "cpu")
    (1, 0, 0)
    """
    kind_needed = "cpu" if provider is Provider.CPU else "cuda"
    kind, colon, number = (device or kind_needed).partition(":")
    if kind != kind_needed or (colon and (kind_needed == "cpu" or not number.isdecimal())):
        allowed = "cpu" if kind_needed == "cpu" else "cuda[:N]"
        raise UsageError(f"--device {device}: --provider {provider} takes {allowed}")
    return int(number or 0)
