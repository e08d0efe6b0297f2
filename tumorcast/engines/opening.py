"""Find the model that a user named, and open it: a bundle in ONNX Runtime, or torch on RUN folders or on a bundle.

Folders are looked into without torch and without ONNX Runtime, so this is quick, and its errors are the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorcast.engines.bundle import MANIFEST_FILE, Bundle, is_bundle, read_manifest
from tumorcast.engines.onnx_engine import OnnxEngine
from tumorcast.engines.protocol import Engine, ModelImages
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.extra import how_to_install
from tumorcast.settings import Provider
from tumorcast.training.run_info import RUN_FILE, read_run_info

MODELS = Path(__file__).parents[1] / "models"


def shipped_names() -> tuple[str, ...]:
    """The models that come with tumorcast, as --model takes them.

    >>> "demo128" in shipped_names()
    True
    """
    return tuple(sorted(path.name for path in MODELS.iterdir() if is_bundle(path)))


def resolve(model_path: Path) -> Path:
    """The path as it is, or else the folder of the shipped model that it names. There may be nothing there.

    >>> resolve(Path("demo128")) == MODELS / "demo128"
    True
    """
    shipped = MODELS / model_path
    named = not model_path.exists() and len(model_path.parts) == 1 and is_bundle(shipped)
    return shipped if named else model_path


def locate(model_path: Path) -> Path:
    """The folder of the model that a user named: a path, or else the name of a shipped one.

    Raises InputError if there is none, or if it holds neither a bundle nor RUN folders.
    """
    folder = resolve(model_path)
    if is_bundle(folder) or runs_in(folder):
        return folder
    if not folder.exists():
        fault = "no such file or folder"
    elif not folder.is_dir():
        fault = "is a file, and a model is a folder"
    else:
        fault = f"holds no engine bundle ({MANIFEST_FILE}) and, in it or one folder below, no RUN ({RUN_FILE})"
    raise InputError(
        f"{model_path}: {fault}; give a bundle of `tumorcast export`, RUN folders of `tumorcast train`, or the name of "
        f"a shipped model: {', '.join(shipped_names())}"
    )


def locate_all(model_paths: Sequence[Path]) -> list[Path]:
    """The folders of one model: of a bundle, or of its RUNs.

    Raises InputError as `locate` does, and UsageError for a bundle and more.
    """
    folders = [locate(path) for path in model_paths]
    if len(folders) > 1:
        for folder in filter(is_bundle, folders):
            raise UsageError(f"--model {folder}: a bundle holds all networks; give it alone")
    return folders


def runs_in(folder: Path) -> list[Path]:
    """The RUN folders that are `folder` itself, or lie directly below it, in order."""
    if (folder / RUN_FILE).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{RUN_FILE}"))


def images_of(folder: Path) -> ModelImages:
    """What slices the model in a bundle, or in RUN folders, takes; `folder` as `locate` gives it.

    Raises InputError if what it says of itself cannot be read.

    >>> images_of(locate(Path("demo128")))
    ModelImages(image_size=128, contrasts=('t1n', 't1c', 't2w', 't2f'))
    """
    if is_bundle(folder):
        manifest = read_manifest(folder)
        return ModelImages(manifest.image_size, manifest.contrasts)
    info = read_run_info(runs_in(folder)[0])
    return ModelImages(info.architecture.image_size, info.contrasts)


@dataclass(frozen=True)
class EngineChoice:
    """What to open. model_paths: folders, or the name of a shipped model, as `locate_all` takes them.

    provider: None is ONNX Runtime on the CPU for a bundle, and torch for networks.
    device: cpu, cuda or cuda:1; None is the CPU, or the first GPU for a provider that needs one. rows: the largest
    batch asked for. cache: where TensorRT's engines lie; None is a folder in the bundle.
    """

    model_paths: tuple[Path, ...]
    provider: Provider | None = None
    device: str | None = None
    rows: int | None = None
    cache: Path | None = None


def open_engine(choice: EngineChoice) -> Engine:
    """The engine.

    Raises InputError where there is no model, UsageError for what does not go together, EngineError for what is not
    here.
    """
    folders = locate_all(choice.model_paths)
    if choice.provider is Provider.TORCH or not is_bundle(folders[0]):
        return _torch(choice, folders)
    provider = choice.provider or Provider.CPU
    return OnnxEngine(
        Bundle.open(folders[0]),
        provider,
        device=device_index(provider, choice.device),
        rows=choice.rows,
        cache=choice.cache,
    )


def _torch(choice: EngineChoice, folders: list[Path]) -> Engine:
    of_bundle = is_bundle(folders[0])
    if choice.provider not in (None, Provider.TORCH):
        raise UsageError(
            f"--provider {choice.provider}: {folders[0]} holds no engine bundle; make one "
            f"(`tumorcast export {' '.join(map(str, folders))} --out BUNDLE`), or leave out --provider"
        )
    try:
        from tumorcast.engines.model import load_bundle, load_model_set
        from tumorcast.engines.torch_engine import TorchEngine
    except ModuleNotFoundError as fault:
        needs, otherwise = "RUN folders need", "give an engine bundle"
        if of_bundle:
            needs, otherwise = "--provider torch needs", "leave out --provider torch"
        raise EngineError(
            f"{folders[0]}: {fault.name} is not installed, which {needs}; {how_to_install('train')}; or {otherwise}"
        ) from None
    model = load_bundle(Bundle.open(folders[0])) if of_bundle else load_model_set(folders)
    return TorchEngine(model, choice.device or "cpu")


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
