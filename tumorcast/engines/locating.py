"""Where the model is that a user named: an engine bundle, RUN folders, or the name of a shipped bundle.

Only what says what a folder holds is read, never a network.
"""

from collections.abc import Sequence
from pathlib import Path

from tumorcast.engines.bundle import MANIFEST_FILE, is_bundle, read_manifest
from tumorcast.engines.protocol import ModelImages
from tumorcast.errors import InputError, UsageError
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
    return ModelImages(info.plane.image_size, info.contrasts)
