"""Brains from outside: a mask's file, a table of them, or a tool; and that nothing else takes their place silently."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data.cohort import Cohort
from tumorcast.data.imaging.brain_mask import BrainMask
from tumorcast.data.imaging.transforms import Affine
from tumorcast.data.prepare import PrepareSettings, Register, SliceChoice, prepare_cohort
from tumorcast.errors import EngineError, InputError, UsageError

TOOL = """
import sys, SimpleITK as sitk
given, made = sys.argv[sys.argv.index("-i") + 1], sys.argv[sys.argv.index("-o") + 1]
image = sitk.ReadImage(given)
{body}
"""
STRIPPING = TOOL.format(body="sitk.WriteImage(image * sitk.Cast(image > 500, image.GetPixelID()), made)")
FAILING = TOOL.format(body="sys.exit('no GPU was found')")


BESIDE = "{folder}/{patient}-{session}-brain.nii.gz"


@pytest.fixture
def scans(phantom_scan: Callable, tmp_path: Path) -> Path:
    phantom_scan(tmp_path / "scans", "P1-000")
    return tmp_path / "scans"


def half_brain(scans: Path, path: Path, *, cut: slice | None = None) -> np.ndarray:
    """Write the left half of the head as a mask; returns it."""
    image = sitk.ReadImage(str(scans / "P1-000/P1-000-t1c.nii.gz"))
    mask = sitk.GetArrayFromImage(image) > 0
    mask[:, :, 22:] = False
    written = sitk.GetImageFromArray(mask.astype(np.uint8))
    written.CopyInformation(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(written if cut is None else written[:, :, cut], str(path))
    return mask


def prepared(scans: Path, **asked: object) -> tuple[float, dict]:
    """The brain's volume in mm³, and the source's record."""
    out = scans.parent / "c.h5"
    prepare_cohort(scans, out, PrepareSettings(image_size=64, slices=SliceChoice.ALL, **asked))
    with Cohort.open(out) as cohort:
        session = cohort.session("P1", "000")
        assert "scans" not in str(session.source) + str(cohort.config["settings"])
        return float(session.brain.sum() * 64.0), session.source


@pytest.mark.parametrize("register", list(Register))
@pytest.mark.parametrize("pattern", ["{folder}/{patient}_{session}_brain.nii.gz", "masks/{patient}-{session}.nii.gz"])
def test_a_masks_file(scans: Path, pattern: str, register: Register) -> None:
    placed = pattern.format(folder=scans / "P1-000", patient="P1", session="000")
    mask = half_brain(scans, scans / placed)
    volume, source = prepared(scans, brain_mask=pattern, register=register)
    assert source["brain_mask"] == "file"
    assert len(source["brain_sha256"]) == 64
    assert volume == pytest.approx(mask.sum() * 64, rel=0.02)


def test_given_brains_are_what_is_registered(
    phantom: Callable, put: Callable, turned: Callable, tmp_path: Path
) -> None:
    """A bright shell round the brain stays where it is while the brain turns: with masks it does not count."""
    true = turned(10.0, 4.0, np.zeros(3), 6)
    still = phantom()
    z, y, x = np.indices(still.brain.shape)
    radius = ((x - 21.5) / 19.5) ** 2 + ((y - 25.5) / 23.5) ** 2 + ((z - 19.5) / 17.8) ** 2
    shell = np.where((radius > 1) & (radius < 1.25), 900 + 20 * x + 30 * y, 0)
    for name, picture in (("P1-000", still), ("P1-001", put(still, true))):
        (tmp_path / name).mkdir()
        values = np.where(picture.brain, sitk.GetArrayFromImage(picture.image), shell).astype(np.float32)
        for kind, array in (("t1c", values), ("brain", picture.brain.astype(np.uint8))):
            sitk.WriteImage(picture.grid.image(array), str(tmp_path / name / f"{name}-{kind}.nii.gz"))
    asked = PrepareSettings(image_size=64, slices=SliceChoice.ALL, register=Register.RIGID, brain_mask=BESIDE)
    prepare_cohort(tmp_path, tmp_path / "c.h5", asked)
    with Cohort.open(tmp_path / "c.h5") as cohort:
        found = Affine(np.array(cohort.source("P1", "001")["native"]["from_cohort"]))
    assert (~true @ found).distances_mm(still.brain_points()).max() < 2.0


def test_a_table_of_masks(scans: Path) -> None:
    mask = half_brain(scans, scans / "half.nii.gz")
    (scans / "brains.csv").write_text("patient,session,brain\nP1,000,half.nii.gz\n")
    assert prepared(scans, brain_mask="brains.csv")[0] == pytest.approx(mask.sum() * 64, rel=0.02)
    (scans / "brains.csv").write_text("patient,session,brain\nP1,001,half.nii.gz\n")
    with pytest.raises(InputError, match=r"brains.csv: .*P1, session 000"):
        prepared(scans, brain_mask="brains.csv")


@pytest.mark.parametrize("register", list(Register))
def test_an_installed_tool(scans: Path, tmp_path: Path, register: Register) -> None:
    """It gets the image in a folder of its own; what it leaves is the brain: everything over 500."""
    tool = tmp_path / "strip.py"
    tool.write_text(STRIPPING)
    volume, source = prepared(
        scans, brain_tool=f"{sys.executable} {tool} -i {{input}} -o {{output}}", register=register
    )
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(scans / "P1-000/P1-000-t1c.nii.gz")))
    assert source["brain_mask"] == "tool"
    assert "brain_sha256" not in source
    assert 0.5 * (image > 500).sum() * 64 < volume < 1.1 * (image > 500).sum() * 64


def test_the_record_names_the_tool_without_its_folder(scans: Path, tmp_path: Path) -> None:
    tool = tmp_path / "strip.py"
    tool.write_text(STRIPPING)
    prepared(scans, brain_tool=f"{sys.executable} {tool} -i {{input}} -o {{output}}")
    with Cohort.open(scans.parent / "c.h5") as cohort:
        told = cohort.config["settings"]["brain_tool"]
    assert told == f"{Path(sys.executable).name} strip.py -i {{input}} -o {{output}}"


def test_a_tool_that_fails_costs_its_scan(scans: Path, tmp_path: Path) -> None:
    tool = tmp_path / "fail.py"
    tool.write_text(FAILING)
    with pytest.raises(InputError, match=r"P1/000: .*python\S* .*no GPU"):
        prepared(scans, brain_tool=f"{sys.executable} {tool} -i {{input}} -o {{output}}")


def test_a_missing_tool_ends_the_run(scans: Path) -> None:
    with pytest.raises(EngineError, match="--brain-tool: no-such-tool"):
        prepared(scans, brain_tool="no-such-tool -i {input} -o {output}")
    assert not (scans.parent / "c.h5").exists()


def test_masks_that_cannot_be(scans: Path) -> None:
    with pytest.raises(InputError, match=r"none.nii.gz: "):
        prepared(scans, brain_mask="none.nii.gz")
    half_brain(scans, scans / "short.nii.gz", cut=slice(0, 30))
    with pytest.raises(InputError, match=r"short.nii.gz: .*44x52x30"):
        prepared(scans, brain_mask="short.nii.gz")
    image = sitk.ReadImage(str(scans / "P1-000/P1-000-t1c.nii.gz"))
    sitk.WriteImage(image[:, :, 20] > 0, str(scans / "flat.nii.gz"))
    with pytest.raises(InputError, match=r"flat.nii.gz: a 2D"):
        prepared(scans, brain_mask="flat.nii.gz")
    sitk.WriteImage(image * 0, str(scans / "empty.nii.gz"))
    with pytest.raises(InputError, match=r"empty.nii.gz: .*empty"):
        prepared(scans, brain_mask="empty.nii.gz")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"brain_mask": "{sub}.nii.gz"},
            r"--brain-mask {sub}.nii.gz: allowed in braces are {folder}, {patient}, {session}",
        ),
        ({"brain_tool": "hd-bet -i {input}"}, r"--brain-tool hd-bet -i {input}: must name {input} and {output}"),
        ({"brain_tool": "hd-bet {input} {output} {mask}"}, r"allowed in braces are {input}, {output}"),
        (
            {"brain_tool": "a", "brain": BrainMask.HEAD},
            r"--brain and --brain-tool: each says",
        ),
        ({"brain_tool": "a", "brain_mask": "b"}, r"--brain-mask and --brain-tool: each says"),
    ],
)
def test_options_that_cannot_be(scans: Path, asked: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepared(scans, **asked)


def test_single_slices_have_no_mask_of_a_volume(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slices, .*--n4"):
        prepare_cohort(shared_data / "seed_layout", tmp_path / "c.h5", PrepareSettings(image_size=64, n4=True))
