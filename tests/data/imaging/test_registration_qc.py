"""Numbers that say how well scans lie on each other, what is flagged, and the table and pictures of them."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data.imaging.registration import RegistrationImage
from tumorcast.data.imaging.registration_qc import (
    COLUMNS,
    dice,
    image_similarity,
    judge_alignment,
    normalised_mutual_information,
    volume_flags,
)
from tumorcast.data.imaging.transforms import IDENTITY
from tumorcast.data.prepare import PrepareSettings, Register, SliceChoice, prepare_cohort

NAMES = ("t2f", "t1c")


def test_mutual_information_is_the_textbooks() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 200_000))
    assert normalised_mutual_information(one, 5 - 2 * one) == pytest.approx(2.0, abs=0.02)
    assert normalised_mutual_information(one, other) == pytest.approx(1.0, abs=2e-3)
    # of two equal binary signals with a share of flips q, by their 2 × 2 table
    bits = rng.random(200_000) < 0.5
    flipped = np.where(rng.random(200_000) < 0.1, ~bits, bits)
    joint = -2 * (0.45 * np.log(0.45) + 0.05 * np.log(0.05))
    got = normalised_mutual_information(bits.astype(float), flipped.astype(float))
    assert got == pytest.approx(2 * np.log(2) / joint, abs=5e-3)


def test_dice() -> None:
    one, other = np.zeros((2, 4), bool)
    one[:2] = other[1:3] = True
    assert (dice(one, other), dice(one, one), dice(one & False, other & False)) == (0.5, 1.0, 0.0)


def test_better_than_the_headers(phantom: Callable, put: Callable, turned: Callable) -> None:
    fixed, true = phantom("t1c"), turned(8.0, 10.0, np.zeros(3), 1)
    alignment, used = judge_alignment(fixed, put(phantom("t2f"), true), true, NAMES)
    np.testing.assert_array_equal(used.matrix, true.matrix)
    assert (alignment.used, alignment.flags) == ("found", ())
    assert alignment.nmi_after > alignment.nmi_before + 0.02
    assert alignment.dice_after > alignment.dice_before and alignment.dice_after > 0.95
    assert alignment.rotation_degrees == pytest.approx(8.0)
    assert 8.0 < alignment.translation_mm < 12.0
    assert alignment.summary().startswith("t2f onto t1c\nNMI ")


def test_worse_than_the_headers_is_not_used(phantom: Callable, turned: Callable) -> None:
    fixed = phantom("t1c")
    alignment, used = judge_alignment(fixed, phantom("t2f"), turned(8.0, 10.0, np.zeros(3), 1), NAMES)
    assert used.is_identity
    assert (alignment.used, alignment.nmi_after) == ("headers", alignment.nmi_before)
    assert alignment.flags == ("nothing better than the headers was found",)


def test_what_is_suspicious_is_flagged(phantom: Callable, put: Callable, turned: Callable) -> None:
    fixed, true = phantom("t1c"), turned(40.0, 70.0, np.zeros(3), 2)
    alignment, _ = judge_alignment(fixed, put(phantom("t2f"), true), true, NAMES)
    assert any("turned by 40 degrees, more than 30" in flag for flag in alignment.flags)
    assert any("mm, more than 60" in flag for flag in alignment.flags)
    moving = phantom("t2f")
    image = moving.image[:, :, 22:]
    half = RegistrationImage(image, moving.brain[22:])
    told = image_similarity(fixed, half, IDENTITY)
    assert told.in_view == pytest.approx(0.45, abs=0.1)
    assert told.dice > 0.95  # of what was scanned
    alignment, _ = judge_alignment(fixed, half, IDENTITY, NAMES)
    assert any(flag.startswith("covers 4") and "less than 90%" in flag for flag in alignment.flags)
    small = RegistrationImage(moving.image, moving.brain & (np.arange(40) < 18)[:, None, None])
    alignment, _ = judge_alignment(fixed, small, IDENTITY, NAMES)
    assert any("brains overlap by 0." in flag for flag in alignment.flags)


def test_a_tumour_that_changes_its_volume_is_flagged() -> None:
    assert volume_flags(10_000.0, 10_900.0) == volume_flags(100.0, 50.0) == volume_flags(np.nan, np.nan) == []
    assert volume_flags(10_000.0, 8_000.0) == ["the tumour has 10000 mm³ in its scan and 8000 mm³ on the cohort's grid"]


@pytest.mark.slow
def test_the_table_and_the_pictures(phantom_scan: Callable, turned: Callable, tmp_path: Path) -> None:
    """A scan that fails has its row too; one that shows only half of the brain is flagged, kept and counted."""
    scans, qc = tmp_path / "scans", tmp_path / "qc"
    phantom_scan(scans, "P1-000", kinds=("t1c", "t2f"))
    phantom_scan(scans, "P1-001", kinds=("t1c", "t2f"), transform=turned(5.0, 6.0, np.zeros(3), 1))
    half = scans / "P1-001/P1-001-t2f.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(half))[:, :, 22:], str(half))
    phantom_scan(scans, "P1-002", kinds=("t1c", "t2f"))
    (scans / "P1-002/P1-002-t2f.nii.gz").write_bytes(b"nothing")
    settings = PrepareSettings(image_size=64, register=Register.RIGID, slices=SliceChoice.ALL)
    report = prepare_cohort(scans, tmp_path / "c.h5", settings, quality=qc)
    assert [str(one.status) for one in report.outcomes] == ["ok", "ok", "failed"]
    assert report.flagged == 1
    assert report.outcomes[1].flags[0].startswith("t2f onto t1c: covers ")
    assert report.outcomes[1].flags[0] in report.outcomes[1].notes
    with (qc / "qc.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    told = [(row["session_id"], row["contrast"], row["onto"], row["status"]) for row in rows]
    assert told == [
        ("000", "t2f", "t1c", "ok"),
        ("001", "t2f", "t1c", "ok"),
        ("001", "001", "000", "ok"),
        ("002", "", "", "failed"),
    ]
    assert "covers" in rows[1]["notes"] and float(rows[1]["brain_in_view"]) < 0.9
    assert "P1-002-t2f.nii.gz" in rows[3]["notes"]
    assert sorted(path.name for path in qc.iterdir()) == ["P1_000.png", "P1_001.png", "qc.csv"]
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(qc / "P1_001.png")))
    assert picture.shape[0] > 300 and picture[..., :3].std() > 20
