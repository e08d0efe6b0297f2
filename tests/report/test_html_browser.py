"""The HTML report in headless Chromium, opened from its folder as a user would: what it loads, shows and takes."""

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.report.chromium import Chromium, find_chromium
from tests.report.conftest import GREYS, SIDE, TAGGED, VOLUME_SHAPE, Made

SKIP = "Skip to the content"
READY = "document.getElementById('viewer').dataset.ready === 'yes'"
FOCUS = """(() => {
    const one = document.activeElement;
    return one === document.body ? "" : one.id || one.textContent.trim().split("\\n")[0];
})()"""
CANVAS_BOX = """(() => {
    const canvas = document.getElementById("canvas");
    canvas.scrollIntoView();
    const box = canvas.getBoundingClientRect();
    return [box.left + 8, box.top + 8, box.right - 8, box.bottom - 8].map(Math.round);
})()"""
CHOOSE = """(() => {
    const one = document.getElementById(%s);
    one.selectedIndex = [...one.options].findIndex((option) => option.text === %s);
    one.dispatchEvent(new Event("change"));
})()"""
MOVING = """[...document.querySelectorAll("*")].map((one) => getComputedStyle(one)).filter((style) =>
    style.transitionDuration !== "0s" || style.animationName !== "none" || style.scrollBehavior !== "auto").length"""
NAMED_ROLES = {"button", "link", "slider", "combobox", "checkbox", "searchbox", "image", "img", "table", "region"}
Pixels = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser for all tests here; without Chromium they are skipped, and in CI they fail."""
    if find_chromium() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing, and CI must look at the report: .ci/run installs Debian's")
        pytest.skip("chromium is missing on this machine")
    with Chromium.started(tmp_path_factory.mktemp("chromium"), size=(960, 640)) as started:
        yield started


@pytest.fixture
def index(browser: Chromium, made: Made) -> Chromium:
    """The browser with the index open."""
    browser.open(made.out / "index.html")
    return browser


@pytest.fixture
def opened(browser: Chromium, made: Made) -> Chromium:
    """The browser with the page of P1 open and its viewer ready; it is opened anew only after another page."""
    if not browser.evaluate("location.pathname.endsWith('P1.html') && document.getElementById('viewer') !== null"):
        browser.open(made.out / "patients" / "P1.html")
        browser.wait_for(READY)
    return browser


def order(browser: Chromium) -> list[str]:
    """The patients that the index shows, from the top."""
    script = "[...document.querySelectorAll('tbody tr:not([hidden]) th')].map(th => th.textContent)"
    found: list[str] = browser.evaluate(script.replace("tbody", "#patients tbody"))
    return found


def picture(browser: Chromium) -> Pixels:
    """(H, W, 3) what the viewer shows, without its round corners."""
    box = browser.evaluate(CANVAS_BOX)
    told = browser.call("Page.captureScreenshot", format="png")
    window = Image.open(io.BytesIO(base64.b64decode(told["data"]))).convert("RGB")
    return np.asarray(window.crop(box), np.int64)


def set_by_keys(browser: Chromium, control: str, *keys: str) -> None:
    browser.evaluate(f"document.getElementById('{control}').focus()")
    browser.press(*keys)


def choose(browser: Chromium, control: str, name: str) -> None:
    """Choose an option as a user's choice is told to a page."""
    browser.evaluate(CHOOSE % (json.dumps(control), json.dumps(name)))


def colourful(pixels: Pixels) -> int:
    """How many pixels have a colour."""
    return int((np.ptp(pixels, axis=-1) > 24).sum())


def grey_at_centre(pixels: Pixels) -> float:
    """What the middle of the picture shows: even brain."""
    height, width, _ = pixels.shape
    return float(pixels[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4].mean())


def check_names_and_contrast(browser: Chromium) -> None:
    """Whatever has a role that wants a name has one, and no text is weaker than WCAG AA allows."""
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    told = [(one["role"]["value"], one.get("name", {}).get("value", "")) for one in nodes if not one["ignored"]]
    assert len({role for role, _ in told} & NAMED_ROLES) >= 5
    assert [role for role, name in told if role in NAMED_ROLES and not name.strip()] == []
    assert browser.evaluate((Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")) == []


def test_the_index_loads_nothing_and_nothing_goes_wrong(made: Made, index: Chromium) -> None:
    assert (index.requests(), index.troubles()) == ([(made.out.resolve() / "index.html").as_uri()], [])


def test_every_column_sorts_both_ways_and_the_failed_come_last(index: Chromium) -> None:
    assert order(index)[:2] == ["P1", "P2"]
    index.click("button[data-column='2']")
    assert order(index) == ["P1", TAGGED, "P2", "broken", "P9", "P10"]
    assert index.evaluate("document.querySelector('[data-column=\"2\"]').closest('th').ariaSort") == "descending"
    index.press("Enter")  # the button has the focus
    assert order(index)[:3] == ["P2", TAGGED, "P1"]
    index.click("button[data-column='1']")
    assert order(index)[:3] == ["broken", "P9", "P10"]
    assert index.evaluate("document.querySelectorAll('th[aria-sort=none]').length") == 6
    index.click("button[data-column='0']")
    assert order(index)[1:5] == ["P1", "P2", "P9", "P10"]  # numbers in names count as numbers
    index.click("button[data-column='6']")
    assert order(index)[0] == "P1"


def test_the_search_finds_words_of_any_column(index: Chromium) -> None:
    index.click("#search")
    index.type("failed t2f")
    assert order(index) == ["P9"]
    assert index.evaluate("document.getElementById('found').textContent") == "1 of 6 patients"
    index.evaluate("document.getElementById('search').select()")
    index.type("TOO MUCH")
    assert order(index) == ["P1"]


def test_everything_on_the_index_has_a_name_and_enough_contrast(index: Chromium) -> None:
    check_names_and_contrast(index)


def test_a_page_loads_the_shared_viewer_alone_and_nothing_goes_wrong(made: Made, opened: Chromium) -> None:
    there = [made.out.resolve() / "patients" / "P1.html", made.out.resolve() / "static" / "niivue.umd.js"]
    assert (opened.requests(), opened.troubles()) == ([path.as_uri() for path in there], [])


def test_a_slider_moves_the_slice_and_another_the_opacity(opened: Chromium) -> None:
    opened.evaluate("document.getElementById('outlines').click()")
    set_by_keys(opened, "opacity", "Home")
    set_by_keys(opened, "slice", "Home")
    low = picture(opened)
    set_by_keys(opened, "slice", "ArrowRight")
    high = picture(opened)
    assert (colourful(low), colourful(high)) == (0, 0)
    assert grey_at_centre(low) == pytest.approx(255 * GREYS[7], abs=3)
    assert grey_at_centre(high) == pytest.approx(255 * GREYS[9], abs=3)
    assert opened.evaluate("document.getElementById('slice-caption').textContent").startswith("Slice 9: 100")
    set_by_keys(opened, "opacity", "End")
    solid = colourful(picture(opened))
    assert opened.evaluate("document.getElementById('opacity-told').textContent") == "100 %"
    choose(opened, "map", "changed: the paper's map")
    opened.wait_for("document.getElementById('map-told').textContent.startsWith('Share of the members')")
    assert solid > 200
    opened.evaluate("document.getElementById('outlines').click()")
    assert opened.evaluate("document.querySelectorAll('#lines path[d^=M]').length") == 2


def test_the_patients_right_is_on_the_left_and_another_image_is_shown(opened: Chromium) -> None:
    set_by_keys(opened, "slice", "Home")
    set_by_keys(opened, "opacity", "Home")
    scan = picture(opened)
    left, right = np.split(scan, [scan.shape[1] // 2], axis=1)
    assert (left.min(axis=-1) > 240).sum() > 50 and not (right.min(axis=-1) > 240).any()
    choose(opened, "image", "forecast, t2f")
    opened.wait_for("document.getElementById('canvas').ariaLabel.includes('forecast, t2f')")
    assert grey_at_centre(picture(opened)) == pytest.approx(255 * (1 - GREYS[7]), abs=3)
    choose(opened, "image", "scan, t2f")


def test_the_wheel_reaches_slices_that_were_not_forecast_and_it_is_said(opened: Chromium) -> None:
    set_by_keys(opened, "slice", "Home")
    left, top, right, bottom = opened.evaluate(CANVAS_BOX)
    told = {"x": (left + right) / 2, "y": (top + bottom) / 2, "deltaX": 0}
    for turn in (-120, 120):  # one of them leads up
        opened.call("Input.dispatchMouseEvent", type="mouseWheel", deltaY=turn, **told)
        if opened.evaluate("document.getElementById('slice-told').textContent").startswith("8"):
            break
    assert opened.evaluate("document.getElementById('slice-caption').textContent") == "Slice 8: not forecast."
    assert opened.evaluate("document.getElementById('lines').hasAttribute('hidden')")
    set_by_keys(opened, "slice", "End", "Home")


def test_outlines_lie_on_what_they_are_round(opened: Chromium) -> None:
    set_by_keys(opened, "opacity", "End")
    choose(opened, "map", "growth map")
    opened.wait_for("document.getElementById('map-told').textContent.startsWith('Probability of tumour at')")
    opened.evaluate("document.getElementById('outlines').checked || document.getElementById('outlines').click()")
    with_lines = picture(opened)
    opened.evaluate("document.getElementById('outlines').click()")
    without = picture(opened)
    opened.evaluate("document.getElementById('outlines').click()")
    changed = np.argwhere(np.abs(with_lines - without).sum(axis=-1) > 60)
    coloured = np.argwhere(np.ptp(without, axis=-1) > 24)
    voxel = without.shape[0] / SIDE
    assert np.abs(changed.mean(axis=0) - coloured.mean(axis=0)).max() < voxel
    assert np.abs(changed.max(axis=0) - coloured.max(axis=0)).max() < 2 * voxel


def test_a_whole_tumour_opens_in_three_planes_and_has_the_outline_of_each_horizon(
    volume_report: Path, browser: Chromium
) -> None:
    for patient_id in ("P1", "P2"):
        browser.open(volume_report / "patients" / f"{patient_id}.html")
        browser.wait_for(READY)
        assert browser.troubles() == []
    check_names_and_contrast(browser)
    assert browser.evaluate("document.getElementById('planes').checked")
    assert browser.evaluate("document.getElementById('lines').hasAttribute('hidden')")
    browser.evaluate("document.getElementById('planes').click()")
    set_by_keys(browser, "opacity", "End")
    sizes = []
    for map_name in ("growth map, in 30 days", "growth map, in 90 days"):
        choose(browser, "map", map_name)
        browser.wait_for(f"document.getElementById('canvas').ariaLabel.includes({json.dumps(map_name)})")
        with_lines = picture(browser)
        browser.evaluate("document.getElementById('outlines').click()")
        without = picture(browser)
        browser.evaluate("document.getElementById('outlines').click()")
        lines = np.argwhere(np.abs(with_lines - without).sum(axis=-1) > 60)
        coloured = np.argwhere(np.ptp(without, axis=-1) > 24)
        assert np.abs(lines.mean(axis=0) - coloured.mean(axis=0)).max() < without.shape[0] / VOLUME_SHAPE[1]
        assert lines.mean(axis=0)[1] > without.shape[1] / 2  # the tumour is at the patient's left
        sizes.append(np.ptp(lines, axis=0))
    assert (sizes[1] > sizes[0]).all()


def test_the_keyboard_reaches_everything_in_order(opened: Chromium) -> None:
    reached: list[str] = []
    while len(reached) < 40 and "outlines" not in reached[reached.index(SKIP) if SKIP in reached else 40 :]:
        opened.press("Tab")
        reached.append(opened.evaluate(FOCUS))
        width = opened.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert width == "3px" or not reached[-1], f"{reached[-1]} does not show that it has the focus"
    controls = ["image", "map", "opacity", "slice", "outlines"]
    assert reached[reached.index(SKIP) :] == [SKIP, "← All patients", "Measured sizes as a table", *controls]


def test_everything_on_a_page_has_a_name_and_enough_contrast(opened: Chromium) -> None:
    check_names_and_contrast(opened)


def test_nothing_moves_where_less_motion_is_wanted(opened: Chromium) -> None:
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert opened.evaluate(MOVING) == 0
    opened.call("Emulation.setEmulatedMedia", features=[])


def test_print_has_the_pictures_and_not_what_needs_a_screen(opened: Chromium, tmp_path: Path) -> None:
    shown = "document.querySelector('{}').checkVisibility()"
    screen = {name: opened.evaluate(shown.format(name)) for name in ("#controls", "nav", ".panels svg", "footer")}
    opened.call("Emulation.setEmulatedMedia", media="print")
    paper = {name: opened.evaluate(shown.format(name)) for name in screen}
    opened.call("Emulation.setEmulatedMedia", media="")
    assert all(screen.values())
    assert paper == {"#controls": False, "nav": False, ".panels svg": True, "footer": True}
    opened.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"


@pytest.mark.parametrize("page", ["index.html", "patients/P1.html"])
def test_a_phone_shows_all_within_its_width(made: Made, browser: Chromium, page: str) -> None:
    browser.resize(390, 844, mobile=True)
    browser.open(made.out / page)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_a_page_sent_alone_says_what_its_viewer_lacks(made: Made, browser: Chromium, tmp_path: Path) -> None:
    shutil.copy(made.out / "patients" / "P2.html", tmp_path / "P2.html")
    browser.open(tmp_path / "P2.html")
    browser.wait_for("!document.getElementById('viewer-fault').hidden")
    told = browser.evaluate("document.getElementById('viewer-fault').textContent")
    assert "static/niivue.umd.js is not beside the folder of this page" in told
    assert browser.evaluate("document.querySelectorAll('.panels svg').length") == 5
