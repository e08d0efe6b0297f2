"""Where the model is that a user named: an engine bundle, RUN folders, or the name of a shipped bundle.

Only what says what a folder holds is read, never a network.
"""

from collections.abc import Sequence
from pathlib import Path

from tumorcast.engines.bundle import MANIFEST_FILE, images_in, is_bundle, read_manifest
from tumorcast.engines.protocol import ModelImages
from tumorcast.errors import InputError, UsageError
from tumorcast.settings import NetworkKind
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


def volume_run(folders: Sequence[Path]) -> Path | None:
    """The one RUN folder with a progression network on volumes, in or among `folders`; None where there is none.

    Raises InputError if there are several.
    """
    runs = [run for folder in folders for run in runs_in(folder)]
    found = [run for run in runs if read_run_info(run).kind is NetworkKind.PROGRESSION]
    if len(found) > 1:
        raise InputError(f"{', '.join(map(str, found))}: {len(found)} progression networks; give --model one of them")
    return found[0] if found else None


def images_of(*folders: Path) -> ModelImages:
    """What slices a model takes: a bundle, or RUN folders; `folders` as `locate` gives them.

    Raises InputError if what it says of itself cannot be read, or if it has no networks of images.

    >>> images_of(locate(Path("demo128")))
    ModelImages(image_size=128, contrasts=('t1n', 't1c', 't2w', 't2f'))
    """
    if is_bundle(folders[0]):
        return images_in(folders[0], read_manifest(folders[0]))
    for run in (run for folder in folders for run in runs_in(folder)):
        info = read_run_info(run)
        if info.kind is not NetworkKind.PROGRESSION:
            return ModelImages(info.plane.image_size, info.contrasts)
    raise InputError(
        f"{', '.join(map(str, folders))}: no network of images among the RUN folders, a progression network on volumes "
        "alone; give the denoiser's RUN folder too"
    )
