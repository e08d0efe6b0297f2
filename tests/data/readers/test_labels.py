"""What the labels of masks mean: read as a name tells, asked where nothing tells, refused as they are."""

from pathlib import Path

import numpy as np
import pytest

from tumorcast.data.readers.labels import ANY, NAMED_AS_UNTIL_2021, SCHEMES, LabelRule, parsed, read_labels, rule_of
from tumorcast.errors import InputError, UsageError

MASK = Path("a-seg.nii.gz")


def meant(labels: list[float], rule: LabelRule) -> list[int]:
    return read_labels(MASK, np.array(labels), rule).labels.tolist()


@pytest.mark.parametrize(
    ("scan", "labels", "expected"),
    [
        ("BraTS-PED-00001-000", [1, 2, 3, 4], [3, 1, 1, 2]),
        ("BraTS-PED-00001-000", [1, 4], [3, 2]),
        ("BraTSPeds_00001", [2, 4], [1, 2]),
        ("BraTS-GLI-00005-100", [1, 2, 4], [1, 2, 0]),
        ("BraTS-GLI-00001-000", [1, 2, 3], [1, 2, 3]),
        ("BraTS-MET-00001-000", [3, 4], [3, 0]),
        ("BraTS2021_00000", [1, 2, 4], [1, 2, 3]),
        ("Brats18_TCIA09_141_1", [1, 2, 4], [1, 2, 3]),
        ("UCSF-PDGM-0004", [4], [3]),
        ("UPENN-GBM-00001_11", [1, 4], [1, 3]),
        ("TCGA-DU-7294", [1, 2, 4], [1, 2, 3]),
        ("TCGA-DU-7294", [1, 2, 3], [1, 2, 3]),
        ("PatientID_0003_Timepoint_1", [2, 4], [2, 0]),
        ("100001_time1", [1, 2, 4], [1, 2, 0]),
        ("BraTS-MEN-RT-0002-1", [1], [3]),
        ("P001", [1, 2, 3], [1, 2, 3]),
    ],
)
def test_a_name_tells_the_scheme(scan: str, labels: list[float], expected: list[int]) -> None:
    assert meant([0, *labels], rule_of(scan)) == [0, *expected]


@pytest.mark.parametrize(
    ("scan", "labels", "choices"),
    [
        ("BraTS-PED-00001-000", [1, 2, 3], ["brats-peds", "brats2023"]),
        ("BraTS-PED-00001-000", [2], ["brats-peds", "brats2023"]),
        ("P001", [1, 2, 4], ["brats2021", "post-treatment", "brats-peds"]),
        ("P001", [1, 2, 3, 4], ["post-treatment", "brats-peds", "brats2016"]),
        ("BRATS_001", [1, 2, 3], ["msd", "brats2023"]),
    ],
)
def test_where_nothing_tells_it_is_asked(scan: str, labels: list[float], choices: list[str]) -> None:
    """Each scheme that is offered is one that the option takes, and answers the question."""
    with pytest.raises(InputError) as question:
        meant([0, *labels], rule_of(scan))
    for choice in choices:
        assert f"--labels {choice}" in str(question.value)
        answer = LabelRule.only(parsed("--labels", choice))
        assert meant([0, *labels], answer) == [0, *(SCHEMES[choice].meaning[int(label)] for label in labels)]


def test_an_empty_mask_is_not_asked_about() -> None:
    for scan in ("BraTS-PED-00001-000", "P001"):
        assert meant([0, 0], rule_of(scan)) == [0, 0]


def test_old_file_names_tell_old_labels() -> None:
    rule = rule_of("P001", NAMED_AS_UNTIL_2021)
    assert meant([0, 1, 2, 4], rule) == meant([0, 1, 2, 3], rule) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="--labels post-treatment"):
        meant([0, 1, 2, 3, 4], rule)


@pytest.mark.parametrize("labels", [[0.00003, 0.99997, 2.00003, 3.0], [0, 1.004, 1.995, 3], [-0.009, 1, 2.0, 3.01]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_near_whole_numbers_are_those(labels: list[float], dtype: type) -> None:
    assert read_labels(MASK, np.array(labels, dtype), ANY).labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("label", "told"), [(0.98, "0.98"), (1.02, "1.02"), (0.37, "0.37"), (10.92, "10.92"), (2.9899, "2.9899")]
)
def test_other_numbers_are_refused_as_they_are(label: float, told: str) -> None:
    with pytest.raises(InputError, match=rf"a-seg.nii.gz: label {told} found, in 2 voxels"):
        read_labels(MASK, np.array([0, 1, label, label], np.float32), ANY)


@pytest.mark.parametrize("label", [255, 256, 257, -1, 5, 65537])
def test_a_label_that_no_scheme_has_is_told_and_never_wrapped(label: int) -> None:
    with pytest.raises(InputError, match=rf"labels {label}; .* --labels"):
        read_labels(MASK, np.array([0, label]), ANY)
    if label < 65536:
        assert meant([0, label], LabelRule.only(parsed("--labels", f"{label}:3"))) == [0, 3]


@pytest.mark.parametrize("text", ["brats1999", "1-3", "1:4", "1:1 1:2", ""])
def test_an_option_that_names_no_scheme(text: str) -> None:
    with pytest.raises(UsageError, match="brats2023"):
        parsed("--labels", text)


def test_a_cavity_is_told() -> None:
    taken = read_labels(MASK, np.array([0, 2, 4]), rule_of("BraTS-GLI-00001-101"))
    assert "label 4" in taken.notes[0]
    assert taken.record() == {
        "scheme": "post-treatment", "meaning": {"1": 1, "2": 2, "3": 3, "4": 0}, "assumed": False
    }  # fmt: skip
