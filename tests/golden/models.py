"""Small networks with random weights, and the engine bundle of them under tests/golden, which takes minutes to export.

They are good for nothing but running the code. The weights repeat PERIOD signs, so that the archive is small.
tests/engines/test_golden_models.py compares the two; with TUMORCAST_GOLDEN=write it exports the bundle anew.
"""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tumorcast.settings import Architecture, NetworkKind
from tumorcast.training.run_info import RUN_FILE, WEIGHTS_FILE, RunInfo

if TYPE_CHECKING:
    from torch import Tensor

BUNDLE = Path(__file__).with_name("bundle.zip")
KINDS = (NetworkKind.DENOISER, NetworkKind.DENSE_REGRESSOR, NetworkKind.SEGMENTER)
TINY = {"channel_mult": (1, 1), "res_blocks": 1, "attention_resolutions": ()}
CONTRASTS, IMAGE_SIZE, NOISE_LEVELS, MAX_BATCH = ("t1n", "t1c", "t2w", "t2f"), 64, 350, 4
PERIOD = 257  # a prime, so that no two filters of a layer have the same weights
SPREAD = 0.61  # of weights; not a number of half precision, which an export would store as such
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the time of every file in the archive


def unpack_bundle(folder: Path) -> Path:
    """The golden bundle, as files in the new folder `folder`."""
    with zipfile.ZipFile(BUNDLE) as archive:
        archive.extractall(folder)
    return folder


def pack_bundle(bundle: Path) -> None:
    """Make `bundle` the golden one."""
    with zipfile.ZipFile(BUNDLE, "w") as archive:
        for path in sorted(bundle.iterdir()):
            archive.writestr(zipfile.ZipInfo(path.name, EARLIEST), path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def write_runs(folder: Path) -> Path:
    """RUN folders of random networks below `folder`: run.json and the weights, nothing to resume from."""
    from tumorcast.training.checkpoint import save_tensors
    from tumorcast.training.networks import default_architecture

    for kind in KINDS:
        run = folder / kind
        run.mkdir(parents=True)
        default = default_architecture(kind, image_size=IMAGE_SIZE, contrasts=len(CONTRASTS)).model_dump()
        architecture = Architecture(**default | TINY)
        save_tensors(run / WEIGHTS_FILE, random_weights(kind, architecture), {})
        info = RunInfo(kind, architecture, CONTRASTS, NOISE_LEVELS, {"random": True})
        (run / RUN_FILE).write_text(info.to_json(None), encoding="utf-8")
    return folder


def random_weights(kind: NetworkKind, architecture: Architecture) -> "dict[str, Tensor]":
    """Weights of a network by name, about as spread as an untrained network's; those of norms lie about one.

    After a few steps of training they would be so near to zero that rounding hides what is compared on them.
    """
    from torch import from_numpy

    from tumorcast.training.networks import build

    signs = np.random.default_rng(len(kind)).integers(-1, 2, PERIOD)
    weights = {}
    for name, value in sorted(build(kind, architecture).state_dict().items()):
        is_norm = name.endswith("weight") and value.ndim == 1
        spread = SPREAD / max(1, value[0].numel()) ** 0.5
        weights[name] = from_numpy((is_norm + spread * np.resize(signs, value.shape)).astype(np.float32))
    return weights
