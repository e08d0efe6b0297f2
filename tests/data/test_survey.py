"""The balance that `prepare` and its dry run end with, and what stops a run or is said before it is too late."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from tumorcast.cli.main import app
from tumorcast.data.cohort import Cohort

QUICK = ("--image-size", 64, "--min-tumour-mm2", 10)


def run(*words: object) -> tuple[int, str, dict]:
    """Exit code with that of the error tree, all that is printed, and the JSON where there is one."""
    result = CliRunner().invoke(app, ["prepare", *map(str, words)])
    told = result.output + ("" if result.exception is None else str(result.exception))
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    return getattr(result.exception, "exit_code", result.exit_code), told, json.loads(lines[-1]) if lines else {}


@pytest.fixture
def cohort(tmp_path: Path, scan: Callable) -> Path:
    """Two patients, one of two scans."""
    for name in ("P1-000", "P1-001", "P2-000"):
        scan(tmp_path / "scans", name)
    return tmp_path / "scans"


def test_the_balance_is_printed_in_json_and_kept(cohort: Path, tmp_path: Path) -> None:
    table = tmp_path / "clinical.csv"
    table.write_text("patient_id,session_id,day,rt_start_day\nP1,000,0,5\nP1,001,40,\n")
    out = tmp_path / "c.h5"
    (cohort / "P2-000" / "P2-000-adc.nii.gz").write_bytes(b"0")
    code, told, result = run(cohort, "--clinical", table, *QUICK, "--out", out, "--json")
    assert code == 0
    assert "radiotherapy known for 1 of 2 patients" in told and "P2-000-adc.nii.gz" in told
    balance = result["balance"]
    assert balance["files"] == {"found": 16, "taken": 15, "left_out": 1, "lost": 0}
    assert balance["usable"] == {"P1": ["000", "001"], "P2": ["000"]}
    assert balance["radiotherapy"] == {"known": 1, "patients": 2}
    assert balance["labels"] == [{"scheme": "brats2023", "assumed": True, "masks": 3}]
    with Cohort.open(out) as file:
        kept = file.config["balance"]
    assert kept["files"] == balance["files"] and kept["labels"] == balance["labels"]
    assert "adc" not in json.dumps(kept)  # file names may name a person


def test_rows_that_fit_no_scan_stop_the_run_before_any_work(cohort: Path, tmp_path: Path) -> None:
    table = tmp_path / "clinical.csv"
    table.write_text("patient_id,session_id,day\nP1,000,0\nP1,001,40\nP9,000,3\n")
    out = tmp_path / "c.h5"
    for words in (("--dry-run",), (*QUICK, "--out", out)):
        code, told, _ = run(cohort, "--clinical", table, *words)
        assert code == 3 and "P9" in told and "line 4" in told and "--allow-unmatched" in told
    assert not out.exists()
    code, told, _ = run(cohort, "--clinical", table, "--allow-unmatched", *QUICK, "--out", out)
    assert code == 0 and "P9" in told


def test_columns_under_other_names_are_told(cohort: Path, tmp_path: Path) -> None:
    table = tmp_path / "clinical.csv"
    table.write_text("patient_id,session_id,day,RT start,age\nP1,000,0,5,60\nP1,001,40,5,60\n")
    _, told, result = run(cohort, "--clinical", table, "--dry-run", "--json")
    (hint,) = result["balance"]["columns"]
    assert "RT start" in hint and "rt_start_day" in hint and hint in told


def test_scans_without_dates_are_listed(cohort: Path) -> None:
    _, told, result = run(cohort, "--dry-run", "--json")
    assert result["balance"]["undated"] == {"P1": ["000", "001"]}
    assert "no dates: P1" in told


def with_skull(voxels: np.ndarray) -> np.ndarray:
    """The phantom in a head whose air is noise."""
    rng = np.random.default_rng(0)
    return np.where(voxels == 0, rng.integers(1, 30, voxels.shape), voxels).astype(np.int16)


def test_a_head_that_stands_for_the_brain_is_said(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    heads = {kind: with_skull(make_phantom(kind)) for kind in ("t1n", "t1c", "t2w", "t2f")}
    scan(tmp_path / "scans", "P1", **heads)
    _, told, result = run(tmp_path / "scans", *QUICK, "--out", tmp_path / "c.h5", "--json")
    assert "1 scan holds the head" in told and "--brain-tool" in told
    assert result["balance"]["heads"] == 1
    _, told, _ = run(tmp_path / "scans", *QUICK, "--brain", "head", "--out", tmp_path / "d.h5")
    assert "hold the head" not in told  # the user said so


@pytest.mark.parametrize(("shift_mm", "told_of"), [(5.0, True), (0.5, False)])
def test_scans_that_do_not_lie_on_one_grid_are_measured(  # noqa: PLR0917
    tmp_path: Path, scan: Callable, make_phantom: Callable, save_nifti: Callable, shift_mm: float, told_of: bool
) -> None:
    scans = tmp_path / "scans"
    scan(scans, "P1-000")
    for kind in ("t1n", "t1c", "t2w", "t2f", "seg"):
        moved = sitk.GetImageFromArray(make_phantom(kind))
        moved.SetOrigin((0.0, shift_mm, 0.0))
        save_nifti(scans / "P1-001" / f"P1-001-{kind}.nii.gz", make_phantom(kind), moved)
    for words in (("--dry-run",), (*QUICK, "--out", tmp_path / "c.h5")):
        code, told, _ = run(scans, *words)
        assert code == 0
        assert ("P1: scan 001 lies up to 5 mm" in told and "--register rigid" in told) is told_of


def test_a_model_gives_size_and_contrasts_and_a_scan_that_lacks_one_is_named(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path / "scans", "P1")
    scan(tmp_path / "scans", "P2", skip="t2w")
    out = tmp_path / "c.h5"
    code, told, result = run(tmp_path / "scans", "--model", "demo128", "--min-tumour-mm2", 10, "--out", out, "--json")
    assert code == 1 and "P2" in told and "t2w" in told
    assert result["balance"]["usable"] == {"P1": ["000"]}
    with Cohort.open(out) as cohort:
        assert (cohort.image_size, len(cohort.contrasts)) == (128, 4)
    for words in (("--image-size", 64), ("--contrasts", "t1c")):
        code, told, _ = run(tmp_path / "scans", "--model", "demo128", *words, "--out", out)
        assert code == 2 and words[0] in told and "demo128" in told


def test_128_pixels_are_usual(tmp_path: Path, scan: Callable) -> None:
    scan(tmp_path / "scans", "P1")
    assert run(tmp_path / "scans", "--min-tumour-mm2", 10, "--out", tmp_path / "c.h5")[0] == 0
    with Cohort.open(tmp_path / "c.h5") as cohort:
        assert cohort.image_size == 128


def test_a_cohort_of_other_settings_is_not_overwritten(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.h5"
    assert run(cohort, *QUICK, "--out", out)[0] == 0
    before = out.read_bytes()
    assert run(cohort, *QUICK, "--out", out)[0] == 0
    assert out.read_bytes() == before
    code, told, _ = run(cohort, *QUICK, "--tumour", "core", "--out", out)
    assert code == 2 and str(out) in told and "tumour" in told
    assert out.read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    assert run(cohort, *QUICK, "--out", tmp_path / "notes.txt")[0] == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_the_dry_run_calls_usable_is_prepared(
    tmp_path: Path, scan: Callable, make_phantom: Callable, save_nifti: Callable
) -> None:
    """Scans with every fault that headers and masks show: both give the same verdict on each."""
    scans = tmp_path / "scans"
    scan(scans, "A-000")
    scan(scans, "B-000", t1c=make_phantom("t1c")[:5])
    scan(scans, "C-000", skip="seg")
    scan(scans, "D-000", seg=np.where(make_phantom("seg") == 2, 4, make_phantom("seg")))
    scan(scans, "E-000", seg=make_phantom("seg") * 0.7)
    moved = sitk.GetImageFromArray(make_phantom("t2w"))
    moved.SetOrigin((0.0, 2.0, 0.0))
    save_nifti(scan(scans, "F-000") / "F-000-t2w.nii.gz", make_phantom("t2w"), moved)
    scan(scans, "H-000", seg=np.zeros_like(make_phantom("seg")))
    path = scan(scans, "G-000") / "G-000-t1c.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    _, _, listed = run(scans, "--min-tumour-mm2", 10, "--dry-run", "--json")
    _, _, done = run(scans, *QUICK, "--out", tmp_path / "c.h5", "--json")
    assert listed["balance"]["usable"] == done["balance"]["usable"] == {"A-000": ["000"]}
    assert listed["balance"]["unusable"].keys() == done["balance"]["unusable"].keys()


def test_a_part_that_the_mask_does_not_have_is_named_with_a_remedy_that_works(
    tmp_path: Path, scan: Callable, make_phantom: Callable
) -> None:
    scan(tmp_path / "scans", "P1", seg=(make_phantom("seg") > 0).astype(np.uint8))
    asked = ("--tumour", "enhancing", "--min-tumour-mm2", 10)
    for words in (("--dry-run",), ("--image-size", 64, "--out", tmp_path / "c.h5")):
        code, told, _ = run(tmp_path / "scans", *asked, *words)
        assert code == 3 and "--tumour enhancing" in told and "--labels 1:3" in told and "--slices all" not in told
    assert run(tmp_path / "scans", *asked, "--labels", "1:3", *QUICK[:2], "--out", tmp_path / "c.h5")[0] == 0


def test_a_source_within_the_source_is_named(
    tmp_path: Path, scan: Callable, save_nifti: Callable, make_phantom: Callable
) -> None:
    scan(tmp_path / "all", "P1")
    for kind in ("t1c", "seg"):
        save_nifti(tmp_path / "all" / "other" / f"{kind}.nii.gz", make_phantom(kind))
    (tmp_path / "all" / "other" / "sessions.csv").write_text(
        "patient,session,day,t1c,seg\nA,1,0,t1c.nii.gz,seg.nii.gz\n"
    )
    code, told, _ = run(tmp_path / "all", "--dry-run")
    assert code == 1 and "other is a source of its own (table)" in told
    (tmp_path / "all" / "P1").rename(tmp_path / "P1")
    code, told, _ = run(tmp_path / "all", "--dry-run")
    assert code == 3 and str(tmp_path / "all" / "other") in told
