"""Pictures: one a slice, with and without a growth curve, with one contrast and with four."""

from pathlib import Path

import numpy as np
import pytest

from tests.archive.conftest import images_of, patient_of, slice_of, write_run
from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.archive.merge import merge
from tumorcast.report.figures import DISCLAIMER, draw_slice, show_archive

CURVE = {name: np.linspace(1, 2, 5) for name in ("days", "q05", "q50", "q95", "observed_days", "observed_sizes")}


def slice_forecast() -> SliceForecast:
    return slice_of(images_of(7, 3, 8), 7)


def texts(figure: object) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize("contrasts", [["t1c"], ["t1n", "t1c", "t2w", "t2f"]])
def test_a_slice_is_drawn_with_its_sizes_and_the_disclaimer(contrasts: list[str]) -> None:
    with_curve = PatientForecast("P1", "000", 5.0, 35.0, "area_mm2", CURVE, {})
    told = texts(draw_slice(with_curve, slice_forecast(), contrasts))
    assert DISCLAIMER in told
    assert "P1, scan of day 5, slice 7, forecast for day 35" in told
    assert "area (mm²)" in told
    assert ("scan, t2f" in told) is ("t2f" in contrasts)


def test_without_growth_the_panel_says_so() -> None:
    assert "no growth curve" in texts(
        draw_slice(patient_of(curve=False), slice_forecast(), ["t1n", "t1c", "t2w", "t2f"])
    )


def test_an_archive_becomes_a_picture_a_slice(tmp_path: Path) -> None:
    shards = write_run(tmp_path / "parts", {"P1": {7: [3]}}, curve=False)
    merge(tmp_path / "maps.h5", shards, {"contrasts": ["t1n"] * 4}, [])
    with MapArchive.open(tmp_path / "maps.h5") as archive:
        (path,) = show_archive(archive, tmp_path)
    assert path.name == "P1_0007.png"
    assert path.read_bytes()[:4] == b"\x89PNG"
