"""Whole tumours in pictures and pages: planes, volumes in mL, the viewer's volumes; archives of volumes alone."""

import base64
import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.archive.conftest import content_starts
from tests.report.conftest import (
    AFFINE,
    CONTRASTS,
    VOLUME_GRID,
    VOLUME_SHAPE,
    curve_of,
    forecast_of,
    patient_with_curve,
)
from tests.report.test_html import Page
from tests.report.test_plots import texts
from tumorcast.archive.maps import VolumeForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.cli.show import show
from tumorcast.errors import InputError
from tumorcast.records import PatientOutcome, Status
from tumorcast.report.html import write_report
from tumorcast.report.pages.volumes import whole_volumes
from tumorcast.report.planes import Plane, planes_through
from tumorcast.report.sizes import HorizonVolumes
from tumorcast.report.volume_plots import draw_volume, volume_record
from tumorcast.running.ranks import Ranks

MARK = (20, 4, 5)  # z, y, x: towards the head, the front and the patient's right


def test_planes_show_the_head_up_and_the_patients_right_and_front_on_the_left() -> None:
    marked = np.zeros(VOLUME_SHAPE, bool)
    marked[MARK] = True
    places = [np.argwhere(Plane(axis, MARK[axis]).cut(marked))[0] for axis in range(3)]
    depth, rows, columns = VOLUME_SHAPE
    for (row, column), (height, width) in zip(places, ((rows, columns), (depth, columns), (depth, rows)), strict=True):
        assert row < height / 2 and column < width / 2
    assert Plane(1, 0).cut(np.zeros((3, *VOLUME_SHAPE))).shape == (3, depth, columns)
    assert Plane(2, 0).shadow(marked).sum() == 1


def test_planes_go_through_what_is_new_or_else_through_the_tumour(foretold: VolumeForecast) -> None:
    assert [plane.at for plane in planes_through(foretold)] == pytest.approx([9, 18, 17], abs=1)
    gone = replace(foretold, expected_mm3=np.zeros(2))
    assert [plane.at for plane in planes_through(gone)] == [9, 18, 17]
    aside = foretold.log_volume.copy()
    aside[foretold.labels == 0] = np.inf
    aside[9, 18, 22:25] = 0.0
    assert planes_through(replace(foretold, log_volume=aside))[2].at == 23


def test_a_picture_a_patient_tells_the_volumes_of_every_horizon(foretold: VolumeForecast) -> None:
    patient = replace(patient_with_curve("P1"), day=30.0)
    told = texts(draw_volume(patient, foretold, CONTRASTS, 0.25))
    sizes = [HorizonVolumes.of(foretold, horizon, 0.25) for horizon in (0, 1)]
    assert "P1, scan of day 30, t2f" in told and "contour at probability 0.25" in told
    for days, one in zip((30, 90), sizes, strict=True):
        line = next(line for line in told.splitlines() if line.startswith(f"in {days} days: "))
        assert f"{one.present:.2f} mL now" in line and f"{one.expected:.1f} mL expected by the map" in line
        assert f"90 %: {one.foretold.low:.2f} mL to {one.foretold.high:.1f} mL" in line
        assert f"{one.outlined:.1f} mL within the contour" in line
    assert sizes[0].outlined == np.count_nonzero(foretold.growth[0] >= 0.25) * 8 / 1000
    assert {"axial", "coronal", "sagittal", "R", "L", "A", "P", "H", "F"} <= set(told.splitlines())
    asked = replace(foretold, **{name: getattr(foretold, name)[:1] for name in ("growth", "expected_mm3")})
    asked = replace(asked, horizon_days=np.array([np.nan]), target_ratio=np.full((1, 8), 1.5))
    assert "for the change asked for: 0.74 mL now, 1.1 mL foretold, " in texts(
        draw_volume(patient, asked, ["t1c"], 0.5)
    )


def test_what_keeps_a_map_from_its_sizes_is_told_in_pictures_and_pages(
    foretold: VolumeForecast, tmp_path: Path
) -> None:
    lower = replace(foretold, expected_mm3=foretold.expected_mm3 * np.array([1.0, 0.4]))
    patient = replace(patient_with_curve("P1"), target_day=60.0, source_grid=VOLUME_GRID)
    note = "the map gains 1"
    drawn = texts(draw_volume(patient, lower, CONTRASTS, 0.5))
    assert drawn.count(note) == 1 and note not in texts(draw_volume(patient, foretold, CONTRASTS, 0.5))
    shard, key = tmp_path / "P1.h5", ShardKey("run", "P1")
    write_shard(shard, key, patient, {}, lower)
    told = {"contrasts": CONTRASTS, "place": {"name": "front"}, "settings": {}}
    merge(tmp_path / "maps.h5", [PatientShards("P1", {}, (shard, key))], told, [PatientOutcome("P1", Status.OK)])
    write_report(tmp_path / "maps.h5", tmp_path / "report", Ranks())
    assert note in Page(tmp_path / "report" / "patients" / "P1.html").text
    index = Page(tmp_path / "report" / "index.html").text
    assert "⚑ volume apart" in index and "1 with signs of failure" in index
    records = volume_record("P1", lower, 0.5)
    assert [record["reach"] < 0.5 for record in records] == [False, True]
    assert {record["members_held"] for record in records} == {0}


def test_an_evaluation_of_volumes_alone_is_refused_by_its_name(volume_maps: Path, tmp_path: Path) -> None:
    (tmp_path / "volumes.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="judges volumes alone, which pages do not show; leave --evaluation out"):
        write_report(volume_maps, tmp_path / "report", Ranks(), evaluation=tmp_path)


def command(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(show)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_show_draws_volumes_and_slices_and_tells_both(volume_maps: Path, tmp_path: Path) -> None:
    done = command(volume_maps, "--out", tmp_path / "pictures", "--contour", 0.25, "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"P1_volume.png", "P2_volume.png", "P2_0007.png"} and told["pictures"] == 3
    assert [(one["patient_id"], one["horizon_days"]) for one in told["volumes"]] == [
        (name, days) for name in ("P1", "P2") for days in (30.0, 90.0)
    ]
    assert [one["patient_id"] for one in told["slices"]] == ["P2"]
    assert told["volumes"][0]["foretold_ml"]["low"] < told["volumes"][0]["foretold_ml"]["high"]


def damage(path: Path, place: str) -> None:
    """Change one bit of an array of an archive."""
    with h5py.File(path, "r") as file:
        chunk = file[place].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[content_starts(content) + chunk.byte_offset + chunk.size // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("place", ["patients/P2/volume/growth", "patients/P2/slices/0007/image"])
def test_a_damaged_patient_is_told_and_the_others_are_shown(place: str, volume_maps: Path, tmp_path: Path) -> None:
    maps = Path(shutil.copy(volume_maps, tmp_path / "maps.h5"))
    damage(maps, place)
    done = command(maps, "--out", tmp_path / "pictures", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["P1_volume.png"]
    assert (told["pictures"], told["failed"], told["without_forecast"]) == (1, 1, 1)
    assert {one["patient_id"] for one in told["volumes"]} == {"P1"} and told["slices"] == []
    assert f"P2: failed: {maps}: P2, " in done.stderr and "`tumorcast archive verify` tells" in done.stderr
    assert done.exit_code == 1


@pytest.mark.parametrize("contour", [0, 1, 50, "nan"])
def test_a_contour_is_a_probability(contour: object, volume_maps: Path, tmp_path: Path) -> None:
    done = command(volume_maps, "--out", tmp_path / "pictures", "--contour", contour)
    assert "is no probability between 0 and 1; give one such as 0.5" in str(done.exception)
    assert not (tmp_path / "pictures").exists()


def test_the_page_of_a_volume_alone_tells_volumes_and_nothing_of_slices(
    volume_report: Path, foretold: VolumeForecast
) -> None:
    told = Page(volume_report / "patients" / "P1.html").text
    one, two = (HorizonVolumes.of(foretold, horizon) for horizon in (0, 1))
    for part in (
        "for day 60, 30 days ahead, and later ones. The whole tumour, 8 members.",
        f"Tumour volume now {one.present:.2f} mL",
        f"Volume foretold in 90 days {two.foretold.median:.1f} mL",
        f"In 30 days : {one.present:.2f} mL now, {one.foretold.median:.1f} mL foretold, {one.expected:.1f} mL expected",
        f"in 90 days {two.present:.2f} mL {two.foretold.median:.1f} mL [{two.foretold.low:.2f} mL, "
        f"{two.foretold.high:.1f} mL] {two.expected:.1f} mL {two.outlined:.1f} mL",
        "of the sagittal plane the front is",
    ):
        assert part in told, part
    assert "lice" not in told.replace("Slice: ", "").partition("The whole tumour Three planes")[2]
    assert "Signs of failure" not in told and "Area" not in told
    html = (volume_report / "patients" / "P1.html").read_text(encoding="utf-8")
    assert html.count('role="img" aria-label="Axial plane of the t2f scan') == 2
    ids = [part.split('"')[0] for part in html.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_the_page_of_both_has_slices_too(volume_report: Path) -> None:
    told = Page(volume_report / "patients" / "P2.html").text
    assert "The whole tumour, and 1 slice, 8 members." in told
    assert "Sizes, slice by slice" in told and "Tumour area now 100 mm²" in told and "Signs of failure" in told


def test_the_growth_is_that_of_the_volume(volume_report: Path) -> None:
    """The size forecast is of areas: on day 60 the median is 105 over 100, and 1.05 to the power 3/2 is 1.08."""
    curve = curve_of()
    median = float(np.interp(60.0, curve["days"], curve["q50"])) / 100
    assert (
        f"volume in 30 days {round(100 * (median**1.5 - 1)):+d} %" in Page(volume_report / "patients" / "P1.html").text
    )


def test_the_index_names_volumes(volume_report: Path, foretold: VolumeForecast) -> None:
    page = Page(volume_report / "index.html")
    one = HorizonVolumes.of(foretold, 0)
    assert "Volume now, mL Foretold, mL Flags" in page.text and "Area now" not in page.text
    assert f"30 {one.present:.1f} {one.foretold.median:.1f} none" in page.text
    assert "P3 ✗ failed – no mask; draw one" in page.text
    html = (volume_report / "index.html").read_text(encoding="utf-8")
    assert [f'data-column="{column}"' in html for column in range(9)] == [*[True] * 3, False, *[True] * 4, False]


def volume_in(viewer_volume: dict[str, Any]) -> Any:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(viewer_volume["nifti"])))


def test_the_viewer_has_the_scan_and_every_horizon_in_its_place(volume_report: Path, foretold: VolumeForecast) -> None:
    told = Page(volume_report / "patients" / "P1.html").data["volumes"]
    assert [one["name"] for one in told["images"]] == [f"scan, {name}" for name in ("t2f", "t1c", "t2w", "t1n")]
    assert [one["name"] for one in told["maps"]] == ["growth map, in 30 days", "growth map, in 90 days"]
    image, likely = volume_in(told["images"][0]), volume_in(told["maps"][1])
    corner = np.rint(np.linalg.solve(foretold.affine, image.affine @ [0, 0, 0, 1]))[:3].astype(int)
    np.testing.assert_allclose(image.affine[:3, :3], foretold.affine[:3, :3])
    box = tuple(slice(start, start + size) for start, size in zip(corner, image.shape, strict=True))
    np.testing.assert_array_equal(np.asarray(image.dataobj), foretold.image[3].T[box])
    np.testing.assert_array_equal(
        np.asarray(likely.dataobj), np.rint(255 * foretold.growth[1].astype(np.float32)).T[box]
    )
    assert told["slices"] == list(range(told["first"], told["first"] + told["depth"]))
    assert {len(lines) for lines in told["outlines"]} == {3}
    axial, coronal, sagittal = planes_through(foretold)
    across, along = told["centre"]
    assert (1 - across) * image.shape[0] - 0.5 + corner[0] == pytest.approx(sagittal.at)
    assert (1 - along) * image.shape[1] - 0.5 + corner[1] == pytest.approx(coronal.at)
    captions = Page(volume_report / "patients" / "P1.html").data["captions"]
    assert len(captions) == told["depth"] and " expected in 90 days" in captions[axial.at - told["first"]]


def test_slices_are_put_into_the_voxels_of_the_volume(foretold: VolumeForecast) -> None:
    patient = replace(patient_with_curve("P1"), source_grid=VOLUME_GRID)
    slices = [forecast_of(7, 120.0)]
    viewer = whole_volumes(patient, foretold, CONTRASTS, slices)
    assert [one.name for one in viewer.images][4] == "slices: forecast, t2f"
    shown = next(volume_in(vars(one)) for one in viewer.maps if one.name == "slices: growth map")
    rows, columns = np.nonzero(slices[0].growth > 0.5)
    middle = AFFINE @ [columns.mean(), rows.mean(), 7, 1]
    found = nibabel.affines.apply_affine(shown.affine, np.argwhere(np.asarray(shown.dataobj) > 60))
    assert np.abs(found.mean(axis=0) - middle[:3]).max() < 1.6
