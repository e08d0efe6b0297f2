"""`tumorcast prepare --dry-run`: what is there, what is missing, and that nothing but headers is read."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tumorcast.cli.main import app
from tumorcast.data.inventory import ScanRequirements, take_inventory, write_table
from tumorcast.data.readers.layouts import Layout, find_scans
from tumorcast.errors import UsageError
from tumorcast.records import Contrast

HEADER_BYTES = 352


def run(*words: object) -> tuple[int, str]:
    """Exit code, with that of the error tree, and stdout."""
    result = CliRunner().invoke(app, ["prepare", *map(str, words)])
    return getattr(result.exception, "exit_code", result.exit_code), result.stdout


def test_each_patient_is_listed_with_what_is_missing(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    scan(tmp_path, "P1-000")
    scan(tmp_path, "P1-001", skip="t2w")
    scan(tmp_path, "P2-000", skip="seg")
    scan(tmp_path, "P3-000", t1c=make_phantom("t1c")[:5])
    found = take_inventory(tmp_path)
    assert list(found.lines()) == [
        "P1: 2 scans",
        "  000  no date (counted 0)  t1n t1c t2w t2f seg  40x36x6",
        "  001  no date (counted 1)  t1n t1c t2f seg  40x36x6  missing t2w",
        "P2: 1 scan",
        "  000  day 0  t1n t1c t2w t2f  40x36x6",
        "      no tumour mask (seg); add it, or use --slices all",
        "P3: 1 scan",
        "  000  day 0  t1n t1c t2w t2f seg  40x36x6",
        "      files of different sizes (t1n 40x36x6, t1c 40x36x5, t2f 40x36x6, seg 40x36x6); resample them, or use "
        "--register rigid",
        "brats: 3 patients, 2 of 4 scans usable; t1n, t1c, t2f",
    ]
    (warning,) = found.warnings
    assert "t2w left out, as not every scan has it; --contrasts t1n,t1c,t2w,t2f keeps it" in warning
    assert found.balance.undated == {"P1": ["000", "001"]}


def test_what_is_wanted_decides_what_is_usable(tmp_path: Path, scan: Callable, make_phantom: Callable) -> None:
    scan(tmp_path, "P1", skip="seg")
    scan(tmp_path, "P2", skip="t2w", t1c=make_phantom("t1c")[:5])
    asked = {
        "default": ScanRequirements(),
        "all slices": ScanRequirements(mask=False),
        "one contrast": ScanRequirements((Contrast.T2W,), mask=False),
        "registered": ScanRequirements(mask=False, one_grid=False),
    }
    usable = {
        name: [one.usable for one in take_inventory(tmp_path, required=wanted).scans] for name, wanted in asked.items()
    }
    assert usable == {
        "default": [False, False],
        "all slices": [True, False],
        "one contrast": [True, False],
        "registered": [True, True],
    }


def test_days_and_who_shares_one(tmp_path: Path, scan: Callable) -> None:
    for name in ("P1-000", "P1-001", "P2-000"):
        scan(tmp_path, name)
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("patient_id,session_id,day\nP1,000,3\nP1,001,3\nP2,000,9\nP7,000,1\n")
    found = take_inventory(tmp_path, Layout.BRATS, clinical)
    assert [(one.day, one.dated, one.usable) for one in found.scans] == [
        (3.0, True, False),
        (3.0, True, False),
        (9.0, True, True),
    ]
    assert "both on day 3" in found.scans[0].faults[0]
    assert [str(row) for row in found.survey.unmatched] == [f"{clinical}, line 5: patient P7: no such patient"]


def test_nothing_behind_the_headers_is_read(
    tmp_path: Path, scan: Callable, save_nifti: Callable, make_phantom: Callable
) -> None:
    """An image with nonsense for voxels is listed as others are; one cut short and a damaged header are told."""
    for kind in ("t1c", "seg"):
        path = save_nifti(tmp_path / f"P1-{kind}.nii", make_phantom(kind).astype(np.float32))
    image = tmp_path / "P1-t1c.nii"
    content = image.read_bytes()
    image.write_bytes(content[:HEADER_BYTES] + b"\xff" * (len(content) - HEADER_BYTES))
    assert take_inventory(tmp_path).scans[0].faults == ()
    image.write_bytes(content[:-1])
    (fault,) = take_inventory(tmp_path).scans[0].faults
    assert "P1-t1c.nii: truncated" in fault
    image.write_bytes(content)
    path.write_bytes(b"\0" * HEADER_BYTES)
    (fault,) = take_inventory(tmp_path).scans[0].faults
    assert "P1-seg.nii: not a NIfTI file" in fault


def test_the_command_prints_and_its_exit_code_tells(tmp_path: Path, scan: Callable) -> None:
    scans = tmp_path / "scans"
    scan(scans, "P1-000")
    code, text = run(scans, "--dry-run", "--json")
    told = json.loads(text.splitlines()[-1])
    assert (code, told["layout"], told["usable"], told["unusable"]) == (0, "brats", 1, 0)
    (session,) = told["patients"][0]["sessions"]
    assert session["files"]["seg"] == "P1-000/P1-000-seg.nii.gz"
    assert session["size"] == [40, 36, 6]
    code, text = run(scans, "--dry-run", "--contrasts", "t1c")
    assert code == 0 and text.startswith("P1: 1 scan\n  000  day 0  t1n t1c t2w t2f seg")
    (scans / "P1-000" / "P1-000-seg.nii.gz").unlink()
    code, text = run(scans, "--dry-run", "--json")
    assert code == 3 and json.loads(text)["usable"] == 0
    assert run(scans, "--dry-run", "--slices", "all")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scans"]


@pytest.mark.parametrize("words", [(), ("--table", "t.csv", "--out", "c.h5")])
def test_what_goes_with_a_dry_run_alone(tmp_path: Path, scan: Callable, words: tuple[str, ...]) -> None:
    scan(tmp_path, "P1")
    assert run(tmp_path, *words)[0] == UsageError.exit_code


def test_a_pipeline_of_bids_is_named(tmp_path: Path, make_phantom: Callable, save_nifti: Callable) -> None:
    save_nifti(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz", make_phantom("t1n"))
    for pipeline in ("a", "b"):
        save_nifti(tmp_path / "derivatives" / pipeline / "sub-1" / "sub-1_dseg.nii.gz", make_phantom("seg"))
    assert run(tmp_path, "--dry-run")[0] == 3
    code, text = run(tmp_path, "--dry-run", "--derivatives", "b", "--json")
    (session,) = json.loads(text)["patients"][0]["sessions"]
    assert (code, session["files"]) == (
        0,
        {"t1n": "../../sub-1/anat/sub-1_T1w.nii.gz", "seg": "sub-1/sub-1_dseg.nii.gz"},
    )


def test_the_table_reads_back_as_what_was_found(tmp_path: Path) -> None:
    """With the meaning of labels, and without days where there are none."""
    week = tmp_path / "Patient-001" / "week-002"
    (week / "HD-GLIO-AUTO-segmentation" / "registered").mkdir(parents=True)
    for name in ("CT1_r2s_bet_reg.nii.gz", "segmentation.nii.gz"):
        (week / "HD-GLIO-AUTO-segmentation" / "registered" / name).touch()
    found = take_inventory(tmp_path, Layout.LUMIERE_HD_GLIO)
    path = tmp_path / "tables" / "scans.csv"
    write_table(path, found)
    (before,), (after,) = found.sessions, find_scans(path).sessions
    assert (after.patient_id, after.session_id, after.day) == ("Patient-001", "week-002", 14.0)
    assert after.labels.usual[0].meaning == before.labels.usual[0].meaning == {1: 2, 2: 3}
    assert [one.resolve() for one in (*after.images.values(), after.mask)] == [*before.images.values(), before.mask]


def test_a_table_leaves_days_open_where_there_are_none(tmp_path: Path, scan: Callable) -> None:
    for name in ("P1-000", "P1-001", "P2-000"):
        scan(tmp_path, name)
    write_table(tmp_path / "t.csv", take_inventory(tmp_path, Layout.BRATS))
    days = [line.split(",")[2] for line in (tmp_path / "t.csv").read_text().splitlines()[1:]]
    assert days == ["", "", "0"]


def test_single_slices_have_no_table(tmp_path: Path, shared_data: Path) -> None:
    found = take_inventory(shared_data / "seed_layout")
    assert [one.size for one in found.scans] == [(240, 240, 6), (240, 240, 11), (240, 240, 3)]
    with pytest.raises(UsageError, match="single slices"):
        write_table(tmp_path / "t.csv", found)
