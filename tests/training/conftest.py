"""Slices so small that a step of training takes milliseconds: a folder as `tumorcast train` unpacks a cohort into."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

SIDE = 16


def write_slices(folder: Path, radii: dict[str, list[list[float]]]) -> Path:
    """A folder of unpacked slices. radii: by patient, a list of scans, each the radius of its blob in every slice."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    brain = np.hypot(rows - 8, columns - 8) < 7
    where = [
        (patient, scan, 10 + place, radius)
        for patient, scans in enumerate(radii.values())
        for scan, slices in enumerate(scans)
        for place, radius in enumerate(slices)
    ]
    tumour = np.stack([np.hypot(rows - 8, columns - 6) < radius for *_, radius in where])
    images = np.where(tumour, 0.8, np.where(brain, 0.0, -1.0))[:, None].repeat(2, axis=1)
    arrays = {
        "images": images.astype(np.float16),
        "tumour": tumour,
        "brain": np.broadcast_to(brain, tumour.shape),
        "tumour_pixels": tumour.sum(axis=(1, 2)).astype(np.int32),
    }
    for name, values in zip(("patient", "session", "source_slice"), list(zip(*where, strict=True))[:3], strict=True):
        arrays[name] = np.array(values, np.int32)
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    index = {"format": "tumorcast-slices", "format_version": 1, "cohort_sha256": "0" * 64, "contrasts": ["t1c", "t2f"]}
    (folder / "index.json").write_text(json.dumps(index | {"patient_ids": list(radii), "arrays": list(arrays)}))
    return folder


@pytest.fixture(scope="session")
def make_slices() -> Callable[..., Path]:
    """`write_slices`, for tests that need slices of their own."""
    return write_slices


@pytest.fixture(scope="session")
def small_slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients with growing blobs, three scans each of two slices, and one patient without tumour."""
    radii = {f"P{k:02d}": [[2.0 + 0.1 * k + scan, 1.5 + scan] for scan in range(3)] for k in range(12)}
    return write_slices(tmp_path_factory.mktemp("small") / "small.slices", radii | {"bare": [[0.0, 0.0]]})


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Slices so small are worked on by one thread: more of them only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if "small_slices" in request.fixturenames else before)
    yield
    torch.set_num_threads(before)
