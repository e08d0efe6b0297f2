"""The command evaluate as a user starts it, on a forecast of random networks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tumorcast.cli.main import app
from tumorcast.data.cohort import write_cohort
from tumorcast.errors import InputError, UsageError
from tumorcast.records import Contrast, Session

EVERY = {
    "product",
    "no_change",
    "dilation",
    "fisher_kolmogorov",
    "segmenter_distance",
    "changed",
}
UNGUIDED = {"unguided_change", "unguided_segmented"}


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def run(*words: object) -> dict[str, dict[str, object]]:
    """The object that a command prints with --json."""
    result = invoke(*words, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def maps(blob: Callable[..., Session], random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecast of A and B from their second scans, as blob_cohort has them, and of one whom it has not."""
    folder = tmp_path_factory.mktemp("forecast")
    sessions = [
        blob(patient, f"{k:03d}", 60.0 * k, radius + k)
        for patient, radius in (("A", 4.0), ("B", 6.0), ("D", 6.0))
        for k in range(2)
    ]
    write_cohort(folder / "past.h5", sessions, {}, image_size=64, contrasts=tuple(Contrast), config={})
    asked = ("--relative-change", "0.25", "--members", "2", "--steps", "2", "--max-slices", "1")
    run("forecast", folder / "past.h5", "--model", random_bundle, *asked, "--out", folder / "maps.h5")
    return folder / "maps.h5"


@pytest.mark.slow
def test_every_baseline_with_a_model(maps: Path, blob_cohort: Path, random_bundle: Path, tmp_path: Path) -> None:
    asked = ("--model", random_bundle, "--members", "1", "--size", "truth")
    told = run("evaluate", maps, "--truth", blob_cohort, "--out", tmp_path / "found", *asked)
    assert set(told["methods"]) == EVERY | UNGUIDED
    assert (told["patients"], told["slices"]) == ({"ok": 2, "failed": 0, "skipped": 1}, 2)
    assert told["methods"]["dilation"]["ap"] > 0.9  # blobs grow evenly
    record = json.loads((tmp_path / "found" / "evaluation.json").read_text(encoding="utf-8"))
    assert record["settings"]["unguided_members"] == 1
    assert [row["later_session"] for row in record["patients"]] == ["002", "002"]
    page = (tmp_path / "found" / "evaluation.md").read_text(encoding="utf-8")
    assert "has no growth map" in page and "aims at no day" in page and "not in " in page
    assert "unguided diffusion, mean" in page and "outlines of the true size" in page


@pytest.mark.slow
def test_without_a_model_there_is_no_unguided_diffusion_and_it_is_said(
    maps: Path, blob_cohort: Path, tmp_path: Path
) -> None:
    result = invoke("evaluate", maps, "--truth", blob_cohort, "--out", tmp_path / "found", "--json")
    told = json.loads(result.stdout.splitlines()[-1])
    assert (set(told["methods"]), told["size"]) == (EVERY, "aimed")
    assert "Unguided diffusion was not made: it needs `--model`." in result.stderr
    assert "D: skipped: not in" in result.stderr


@pytest.mark.slow
def test_a_patient_that_fails_is_told_and_ends_with_1(maps: Path, blob: Callable[..., Session], tmp_path: Path) -> None:
    sessions = [blob("A", "002", 120.0, 6.0), blob("B", "002", 120.0, 8.0)]
    sessions[1] = replace(sessions[1], affine=np.diag([-4.0, -4.0, 3.0, 1.0]))
    write_cohort(tmp_path / "later.h5", sessions, {}, image_size=64, contrasts=tuple(Contrast), config={"dated": False})
    asked = ("--truth", tmp_path / "later.h5", "--baselines", "none", "--out", tmp_path / "found", "--json")
    result = invoke("evaluate", maps, *asked)
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["patients"] == {"ok": 1, "failed": 1, "skipped": 1}
    assert "B: failed: different grids" in result.stderr
    assert "The truth cohort has no dates" in result.stderr


@pytest.mark.slow
def test_chosen_baselines_alone(maps: Path, blob_cohort: Path, tmp_path: Path) -> None:
    asked = ("evaluate", maps, "--truth", blob_cohort, "--out", tmp_path / "found", "--baselines")
    assert set(run(*asked, "dilation,no_change")["methods"]) == {"product", "no_change", "dilation", "changed"}
    assert set(run(*asked, "none")["methods"]) == {"product", "changed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--baselines", "magic"), "--baselines magic: allowed are no_change, dilation"),
        (("--baselines", "unguided"), "unguided diffusion needs --model"),
        (("--size", "big"), "--size big: allowed are aimed, truth"),
        (("--members", "3"), "needs --model"),
    ],
)
def test_wrong_usage(maps: Path, blob_cohort: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    result = invoke("evaluate", maps, "--truth", blob_cohort, "--out", tmp_path / "found", *words)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_files_of_another_kind_are_refused_by_name(maps: Path, blob_cohort: Path, tmp_path: Path) -> None:
    for files in ((blob_cohort, maps), (maps, tmp_path / "missing.h5")):
        result = invoke("evaluate", files[0], "--truth", files[1], "--out", tmp_path / "found")
        assert isinstance(result.exception, InputError)
    result = invoke("evaluate", maps, "--truth", blob_cohort, "--out", blob_cohort)
    assert isinstance(result.exception, UsageError)
    assert "is a file; give a folder" in str(result.exception)
    assert not (tmp_path / "found").exists()


def test_an_archive_of_another_version_is_refused(maps: Path, blob_cohort: Path, tmp_path: Path) -> None:
    import h5py

    other = tmp_path / "old.h5"
    other.write_bytes(maps.read_bytes())
    with h5py.File(other, "r+") as file:
        file.attrs["format_version"] = 1
    result = invoke("evaluate", other, "--truth", blob_cohort, "--out", tmp_path / "found")
    assert isinstance(result.exception, InputError)
    assert "format_version 1, and this tumorcast reads 2; make it again" in str(result.exception)
