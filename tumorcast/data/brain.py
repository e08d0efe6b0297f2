"""The brain of a scan: by a rule of imaging.brain_mask, or from outside, a mask that the user has or a tool makes.

Where it is to come from outside, nothing stands in for it.

--brain-mask PATTERN   a file a scan, with {folder} (of the scan's first image), {patient} and {session}; relative to
                       the source. Or a table (.csv, .tsv) with the columns patient, session, brain.
--brain-tool COMMAND   run once a scan, with {input} (the reference contrast as NIfTI) and {output} (the file that is
                       read: the mask, or the image of the brain alone; everything not 0 is brain).
"""

import shlex
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tumorcast.data.imaging.brain_mask import BoolArray, BrainMask, brain_mask, filled, resolve
from tumorcast.data.imaging.geometry import AxisOrder, Grid
from tumorcast.data.readers.source_session import SourceSession
from tumorcast.data.readers.volumes import Scan, read_image
from tumorcast.data.settings import PrepareSettings, Register
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.records import Contrast
from tumorcast.tables import read_table

BRAIN_MASK = "brain_mask"  # in a session's `source`: nonzero, head, inner, file or tool
BRAIN_SHA256 = "brain_sha256"  # the same, of a mask's file
PLACEHOLDERS = ("folder", "patient", "session")
TABLES = (".csv", ".tsv")
REMEDY = "install it (pip install hd-bet, or brainles-preprocessing), name its full path, or give masks (--brain-mask)"


def with_brain(source: SourceSession, scan: Scan, settings: PrepareSettings) -> Scan:
    """The scan with its brain; where its volumes are to be registered, with the outline of each too.

    Raises InputError for a mask that is missing, empty or on another grid, EngineError if the tool is not installed.
    """
    rule = resolve(settings.brain, scan.images)
    outlines: dict[Contrast, BoolArray] = {}
    if settings.register is not Register.NONE:
        outline = BrainMask.NONZERO if rule is BrainMask.NONZERO else BrainMask.HEAD
        outlines = {contrast: brain_mask({contrast: image}, outline) for contrast, image in scan.images.items()}
    if settings.brain_is_given:
        mask, record = _given(source, scan.image(scan.reference), settings)
        brains = {scan.reference: mask}
    elif outlines and rule is BrainMask.NONZERO:
        brains, record = outlines, {BRAIN_MASK: str(rule)}
    else:
        brains, record = {next(iter(scan.images)): brain_mask(scan.images, rule)}, {BRAIN_MASK: str(rule)}
    return replace(scan, brains=brains, outlines=outlines, record=record | scan.record)


def rooted(settings: PrepareSettings, source: Path) -> PrepareSettings:
    """The settings with the mask's pattern found from `source`, a folder or a table in it.

    Raises UsageError for a placeholder that there is not, EngineError if the tool is not installed.
    """
    if settings.brain_tool is not None:
        _check_tool(settings.brain_tool)
    if settings.brain_mask is None:
        return settings
    _check_pattern("--brain-mask", settings.brain_mask, PLACEHOLDERS)
    if settings.brain_mask.startswith("{folder}"):
        return settings
    folder = str(source if source.is_dir() else source.parent).replace("{", "{{").replace("}", "}}")
    return replace(settings, brain_mask=str(Path(folder) / settings.brain_mask))


def _given(source: SourceSession, image: sitk.Image, settings: PrepareSettings) -> tuple[BoolArray, dict[str, str]]:
    """The brain from outside, in the order of an image of the scan, and what the cohort file keeps of it."""
    if settings.brain_mask is not None:
        path = _named(settings.brain_mask, source)
        mask = read_image(path)
        record = {BRAIN_MASK: "file", BRAIN_SHA256: mask.sha256}
        return _on_grid(path.name, mask.image, Grid.of(image)), record
    assert settings.brain_tool is not None
    scan = f"{source.patient_id}/{source.session_id}"
    return _from_tool(settings.brain_tool, image, scan), {BRAIN_MASK: "tool"}


def _named(pattern: str, source: SourceSession) -> Path:
    """The mask's file of this scan."""
    folder = next(iter(source.images.values())).parent
    path = Path(pattern.format(folder=folder, patient=source.patient_id, session=source.session_id))
    return _of_table(path, source) if path.suffix.lower() in TABLES else path


def _of_table(path: Path, source: SourceSession) -> Path:
    for row in read_table(path, ("patient", "session", "brain")):
        if (row.text("patient"), row.text("session")) == (source.patient_id, source.session_id):
            return path.parent / row.filled("brain")
    raise InputError(f"{path}: no row for {source.patient_id}, session {source.session_id}; add it, with its brain")


def _on_grid(name: str, mask: sitk.Image, grid: Grid) -> BoolArray:
    """(Z, Y, X) the mask in the order of a grid, on which it must lie."""
    if mask.GetDimension() != len(grid.size):
        raise InputError(f"{name}: a 2D image; give the brain mask of the whole volume")
    order = AxisOrder.between(Grid.of(mask), grid)
    ordered = order.grid(Grid.of(mask))
    if not ordered.is_of_the_voxels_of(grid):
        sizes = ["x".join(map(str, size)) for size in (ordered.size, grid.size)]
        raise InputError(
            f"{name}: a brain mask of {sizes[0]} voxels on another grid than its image ({sizes[1]}); resample it onto "
            "the image, or copy the image's header if it was drawn on it (fslcpgeom)"
        )
    array = order.voxels(np.asarray(sitk.GetArrayFromImage(mask) != 0))
    if not array.any():
        raise InputError(f"{name}: the brain mask is empty; make it again")
    return array


def _check_pattern(option: str, text: str, allowed: tuple[str, ...]) -> None:
    try:
        text.format(**dict.fromkeys(allowed, ""))
    except (KeyError, IndexError, ValueError):
        braced = ", ".join(f"{{{name}}}" for name in allowed)
        raise UsageError(f"{option} {text}: allowed in braces are {braced}") from None


def _check_tool(command: str) -> None:
    _check_pattern("--brain-tool", command, ("input", "output"))
    if "{input}" not in command or "{output}" not in command:
        raise UsageError(f"--brain-tool {command}: must name {{input}} and {{output}}, as 'hd-bet -i {{input}} -o …'")
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        raise EngineError(f"--brain-tool: {program} is not installed; {REMEDY}")


def _from_tool(command: str, image: sitk.Image, scan: str) -> BoolArray:
    """Run the tool on a copy that bears no name, in a folder of its own that is removed."""
    _check_tool(command)
    with tempfile.TemporaryDirectory(prefix="tumorcast-brain-") as folder:
        given, made = Path(folder) / "input.nii.gz", Path(folder) / "output.nii.gz"
        sitk.WriteImage(image, str(given))
        words = [word.format(input=given, output=made) for word in shlex.split(command)]
        ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        if ended.returncode or not made.is_file():
            output = (ended.stderr or ended.stdout).strip().splitlines()
            why = output[-1] if output else "it said nothing"
            raise InputError(f"{scan}: {words[0]} ended with {ended.returncode} and no mask ({why}); run it by hand")
        mask = _on_grid(f"{scan}, made by {words[0]}", read_image(made).image, Grid.of(image))
    return filled(mask)  # an image of the brain alone can have zeros within it
