"""The HTML report without a browser: what is in its files, what is not, and what is refused."""

import base64
import gzip
import json
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.report.conftest import AFFINE, SECRET, SIDE, TAGGED, Made, forecast_of, write_maps
from tumorcast.cli.report import report
from tumorcast.durable import sha256_of
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.failure_flags import Failure
from tumorcast.report.html import write_report
from tumorcast.report.pages import words
from tumorcast.report.pages.charts import ChartText, inline_svg
from tumorcast.report.pages.render import HERE
from tumorcast.report.pages.volumes import viewer_volumes
from tumorcast.running.ranks import Ranks

TAGGED_PAGE = words.page_name(TAGGED)


class Page(HTMLParser):
    """A page's text outside scripts and styles, its links, and the JSON that stands in it by id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.data: dict[str, Any] = {}
        self._parts: list[str] = []
        self._inside: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._parts).replace(words.THIN_SPACE, " ").split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        self.tags.append(tag)
        self._inside = (told.get("id") or tag) if tag in ("script", "style") else None
        self.links += [link for link in (told.get("href"), told.get("src")) if link and not link.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self._parts.append(data)
        elif self._inside not in ("script", "style"):
            self.data[self._inside] = json.loads(data)


def page_of(made: Made, patient_id: str) -> Page:
    return Page(made.out / "patients" / words.page_name(patient_id))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_page_a_patient_an_index_and_one_viewer(made: Made) -> None:
    pages = {"patients/P1.html", "patients/P2.html", f"patients/{TAGGED_PAGE}"}
    assert set(files_of(made.out)) == {"index.html", *pages, "static/niivue.umd.js", "static/niivue.licences.txt"}
    assert [(one.patient_id, one.status) for one in made.written.pages] == [
        *((name, "ok") for name in ("P1", "P2", TAGGED)),
        ("broken", "failed"),
    ]
    assert made.written.without_forecast == 2
    for path in made.out.rglob("*.html"):
        page = Page(path)
        assert page.text.count("For research, not a medical device.") == 2
        for link in page.links:
            assert link.startswith("data:image/png;base64,") or (path.parent / link).is_file(), link


def test_the_index_tells_everyone_with_the_reason(made: Made) -> None:
    told = Page(made.out / "index.html").text
    assert "6 patients: 3 forecast, 2 failed, 1 skipped. 1 with signs of failure." in told
    assert "P9 ✗ failed – scan 1.nii.gz: 3 of 4 contrasts found (no t2f); add it" in told
    assert "P10 – skipped – no tumour <i>" in told
    assert "P1 ✓ ok +12 % −10 to +90 % 60 200 ⚑ too much 0.900" in told
    assert "P2 ✓ ok −44 % −55 to −5 % 60 100 none" in told
    assert "tumorcast's growth map 0.500 0.875 [0.800, 0.950]" in told


def test_a_patients_page_tells_sizes_flags_treatment_and_the_truth(made: Made) -> None:
    told = page_of(made, "P1").text
    for part in (
        "Forecast from the scan of day 30 for day 90, 60 days ahead. 2 slices, 7 members.",
        "Predicted growth +12 % −10 to +90 % (5–95 % of the forecast)",
        "Tumour area now 200 mm²",
        "⚑ too much More than 150 % of the change aimed at was reached. Slice 9.",
        "Radiotherapy: day 10 to 52, 60 Gy in 30 fractions. Resection: day 20.",
        "9 100 150 [147, 153] 300 [295, 305] 4.00 ⚑ too much",
        "The scan of 63 days later (+3 from the day aimed at). 1 slice judged, 1 left out: "
        "100 mm² at first, 150 mm² aimed at, 140 mm² in truth.",
        "tumorcast's growth map – 0.900 2.0",
        "seed 7",
    ):
        assert part in told
    assert "Slice 9 : 100 mm² now" in told and "Slice 7 : 100 mm² now" not in told  # one picture, the flagged slice's


def test_charts_have_names_tooltips_and_the_colours_of_the_style_sheet(made: Made) -> None:
    html = (made.out / "patients" / "P1.html").read_text(encoding="utf-8")
    charts = re.findall(r"<svg [^>]*-chart-title.*?</svg>", html, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        title, desc = re.findall(r'aria-labelledby="(\S+) (\S+)"', chart)[0]
        assert 'role="img"' in chart and f'<title id="{title}">' in chart and f'<desc id="{desc}">' in chart
        assert "<style" not in chart and "font-family" not in chart
        assert set(re.findall(r"#[0-9a-f]{6}", chart)) <= {"#ffffff", "#000000"}
    assert re.findall(r"<title>(day [^<]*)</title>", charts[0]) == [
        f"day {day}: {size}{words.THIN_SPACE}mm²" for day, size in ((0, 80), (15, 90), (30, 100))
    ]
    assert "<title>Radiotherapy, day 10 to 52, 60 Gy in 30 fractions</title>" in charts[0]
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_without_growth_file_and_evaluation_the_page_says_what_it_lacks(made: Made, tmp_path: Path) -> None:
    write_report(made.maps, tmp_path, Ranks())
    told = Page(tmp_path / "patients" / "P1.html").text
    assert "Treatment is not in the archive; a report made with --growth shows it." in told
    assert "Against the scan that came" not in told
    assert "Not judged: not in scan 1.nii.gz." in page_of(made, "P2").text


def test_what_a_page_shows_of_a_name_is_text(made: Made) -> None:
    for page in (Page(made.out / "index.html"), page_of(made, TAGGED)):
        assert TAGGED in page.text
        assert not {"b", "i"} & set(page.tags)


def test_no_path_and_no_other_name_is_told(made: Made) -> None:
    secret = [*SECRET.split("/")[1:-1], "1961", str(made.maps.parent), "/home", "maps.h5"]
    for name, content in files_of(made.out).items():
        if name.endswith(".html"):
            texts = [content, *(gzip.decompress(base64.b64decode(one)) for one in niftis(made.out / name))]
            assert not [part for part in secret for text in texts if part.encode() in text], name


def niftis(path: Path) -> list[str]:
    told = Page(path).data.get("volumes", {"images": [], "maps": []})
    return [one["nifti"] for one in (*told["images"], *told["maps"])]


def test_volumes_lie_where_the_slices_lie(made: Made) -> None:
    told = page_of(made, "P1").data["volumes"]
    assert (told["slices"], told["first"], told["depth"]) == ([7, 9], 7, 3)
    assert [one["name"] for one in told["images"][:3]] == ["scan, t2f", "forecast, t2f", "scan, t1c"]
    assert told["maps"][0]["name"] == "growth map"
    image = volume_of(told["images"][0]["nifti"])
    scan, empty = forecast_of(9, 150.0), np.zeros(image.shape[:2])
    corner = np.rint(np.linalg.solve(AFFINE, image.affine @ [0, 0, 0, 1]))[:3].astype(int)
    np.testing.assert_array_equal(
        image.affine @ [1, 2, 2, 1], AFFINE @ [corner[0] + 1, corner[1] + 2, corner[2] + 2, 1]
    )
    width, height, _ = image.shape
    part = scan.image[3, corner[1] : corner[1] + height, corner[0] : corner[0] + width].T
    np.testing.assert_array_equal(image.dataobj[..., 2], np.rint(255 * (part + 1) / 2))
    np.testing.assert_array_equal(image.dataobj[..., 1], empty)  # slice 8 was not forecast
    assert width < SIDE and height < SIDE


def volume_of(nifti: str) -> Any:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(nifti)))


def test_a_map_that_some_slices_lack_is_left_out(made: Made) -> None:
    slices = [forecast_of(7, 150.0), replace(forecast_of(9, 150.0), growth=None)]
    assert viewer_volumes(slices, ["t1n", "t1c", "t2w", "t2f"]).maps[0].name == "tumour in the generated images"


class GatheredError(Exception):
    """Ends the rank that a test looks at, where it has given its share to the others."""


@dataclass(frozen=True)
class OneOfTwo(Ranks):
    """A rank that runs alone, rank 1 first: what it sends is in `sent` when rank 0 asks for it."""

    sent: list[Any] = field(default_factory=list)

    def all_of(self, value: Any) -> list[Any]:
        if self.is_root:
            return [value, *self.sent]
        self.sent.append(value)
        raise GatheredError

    def report_done(self) -> None:
        pass

    def poll(self, *, wait: bool = False) -> int:
        return len(self.sent[0]) if wait else 0


def test_any_number_of_ranks_and_a_second_time_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    given = {"growth": made.growth, "evaluation": made.evaluation, "pictures": 1}
    sent: list[Any] = []
    with pytest.raises(GatheredError):
        write_report(made.maps, tmp_path, OneOfTwo(1, 2, sent=sent), **given)
    assert set(files_of(tmp_path)) == {"patients/P2.html"}  # of P1, P2, Q and broken it has the second and the fourth
    done: list[tuple[int, int]] = []
    write_report(made.maps, tmp_path, OneOfTwo(0, 2, sent=sent), report=lambda *now: done.append(now), **given)
    assert files_of(tmp_path) == files_of(made.out)
    assert done == [(1, 4), (2, 4), (4, 4)]


def test_a_second_report_takes_the_place_of_the_first(made: Made, tmp_path: Path) -> None:
    write_report(made.maps, tmp_path, Ranks())
    (tmp_path / "patients" / "gone.html").write_bytes((tmp_path / "patients" / "P1.html").read_bytes())
    (tmp_path / "patients" / "notes.html").write_text("<p>mine</p>")
    before = files_of(tmp_path)
    write_report(made.maps, tmp_path, Ranks())
    before.pop("patients/gone.html")
    assert files_of(tmp_path) == before


def test_another_growth_file_or_evaluation_is_refused(made: Made, tmp_path: Path) -> None:
    other = write_maps(tmp_path / "maps.h5", "0" * 64)
    with pytest.raises(InputError, match=r"growth\.h5: is not"):
        write_report(other, tmp_path / "report", Ranks(), growth=made.growth)
    with pytest.raises(InputError, match=r"evaluation\.json: judges"):
        write_report(other, tmp_path / "report", Ranks(), evaluation=made.evaluation)
    with pytest.raises(InputError, match="`tumorcast evaluate`"):
        write_report(other, tmp_path / "report", Ranks(), evaluation=tmp_path)
    (tmp_path / "evaluation.json").write_text('{"archive": {}}')
    with pytest.raises(InputError, match="no evaluation of"):
        write_report(other, tmp_path / "report", Ranks(), evaluation=tmp_path)
    assert not (tmp_path / "report").exists()


def test_a_folder_of_something_else_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>My site</h1>")
    with pytest.raises(UsageError, match="something else"):
        write_report(made.maps, tmp_path, Ranks())
    with pytest.raises(UsageError, match="is a file; give a folder"):
        write_report(made.maps, made.growth, Ranks())


def test_the_command_ends_with_1_and_tells_who_failed(made: Made, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    words_given = [str(made.maps), "--out", str(tmp_path), "--growth", str(made.growth), "--json"]
    done = CliRunner().invoke(app, words_given)
    assert done.exit_code == 1
    counts = {"pages": 3, "failed": 1, "without_forecast": 2}
    assert json.loads(done.stdout.splitlines()[-1]) == {"out": str(tmp_path / "index.html")} | counts
    assert re.search("broken: failed: KeyError: 'observed_sizes'", done.stderr)


def test_every_failure_has_words() -> None:
    assert {str(failure) for failure in Failure} <= set(words.FLAG_TEXTS)


def test_the_vendored_viewer_is_the_one_that_its_readme_tells() -> None:
    told = re.search(r"sha256sum \S+\s+# (\w+)", (HERE / "static" / "README.md").read_text(encoding="utf-8"))
    viewer = HERE / "static" / "niivue.umd.js"
    assert told is not None and told[1] == sha256_of(viewer)
    assert viewer.stat().st_size < 3_000_000


def test_a_chart_takes_any_name_of_a_column() -> None:
    svg = inline_svg(ChartText("sizes", "Sizes", "Of a table."), lambda axes: axes.set_title("vol $a^$ x"), {})
    assert "vol $a^$ x" in svg
    assert "<style" not in svg
