"""PNG pictures: a slice with and without a growth curve, with one and four contrasts; growth; a study of counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.archive.conftest import images_of, patient_of, slice_of, write_run
from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.archive.merge import merge
from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.plot import DISCLAIMER, save_figure
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.scan_count import forecast_from_fewer, scan_count_tables
from tumorcast.growth.settings import FitSettings
from tumorcast.records import ChemotherapyCourse, Forecaster, RadiotherapyCourse, SizeSeries, Treatment
from tumorcast.report.plots import draw_forecast, draw_patient, draw_slice, draw_study
from tumorcast.report.show import show_archive

QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
TREATED = Treatment(
    (RadiotherapyCourse(-60.0, -20.0),), (ChemotherapyCourse(-60.0, 90.0), ChemotherapyCourse(100.0, np.inf))
)
DAYS = np.array([0.0, 60.0, 130.0, 180.0])
CURVE = {name: np.linspace(1, 2, 5) for name in ("days", "q05", "q50", "q95", "observed_days", "observed_sizes")}


def slice_forecast() -> SliceForecast:
    return slice_of(images_of(7, 3, 8), 7)


def texts(figure: object) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize("contrasts", [["t1c"], ["t1n", "t1c", "t2w", "t2f"]])
def test_a_slice_is_drawn_with_its_sizes_and_the_disclaimer(contrasts: list[str], tmp_path: Path) -> None:
    with_curve = PatientForecast("P1", "000", 5.0, 35.0, "area_mm2", CURVE, {})
    figure = draw_slice(with_curve, slice_forecast(), contrasts)
    save_figure(figure, tmp_path / "slice.png")
    told = texts(figure)
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
        (path,) = show_archive(archive, tmp_path, 0.5).patients[0].pictures
    assert path.name == "P1_0007.png"
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
@pytest.mark.parametrize("forecaster", list(Forecaster))
def test_a_picture_a_patient(forecaster: Forecaster, tmp_path: Path) -> None:
    sizes = {"A": [9000.0, 12_000, 900, 8000], "one": [500.0], "gone": [0.0, 0.0], "again": [0.0, 800.0, 0.0]}
    patients = [
        SizeSeries(name, "enhancing_mm3", DAYS[: len(told)], np.array(told), TREATED) for name, told in sizes.items()
    ]
    model = GrowthModel(QUICK, forecaster, fixed_prior(shipped_prior()))
    paths = [draw_patient(model, tmp_path / "plots", series) for series in patients]
    assert [path.name for path in paths] == [f"{name}.png" for name in sizes]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_patient_fitted_alone_is_drawn(tmp_path: Path) -> None:
    series = SizeSeries("B", "relative_size", DAYS, np.array([1.0, 2.0, 1.5, 1.0]))
    assert draw_patient(GrowthModel(QUICK, Forecaster.MECHANISTIC, fixed_prior(None)), tmp_path, series).exists()


def test_long_notes_stay_within_the_picture_and_the_last_size_is_explained() -> None:
    series = SizeSeries("B", "relative_size", DAYS, np.array([1.0, 2.0, 1.5, 1.0]))
    forecast = GrowthModel(QUICK, Forecaster.MECHANISTIC, fixed_prior(None)).forecast(series)
    notes = tuple(f"{name}: " + "from day 193 to day 291 the size fell " * 6 for name in ("first", "second"))
    figure = draw_forecast(replace(forecast, fit=replace(forecast.fit, notes=notes)))
    title = figure.get_suptitle().split("\n")
    assert [line.partition(":")[0] for line in title if ":" in line] == ["B", "first", "second"]
    assert len(title) == 7 and all(len(line) <= 110 for line in title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (width, _), boxes = canvas.get_width_height(), [text.get_window_extent() for text in figure.texts]
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
    assert boxes[0].y0 >= max(axes.get_tightbbox().y1 for axes in figure.axes)
    assert "(dashed: the last size)" in texts(figure)


def test_the_study_is_drawn(tmp_path: Path) -> None:
    series = SizeSeries("A", "enhancing_mm3", DAYS, np.array([9000.0, 12_000, 900, 8000]), TREATED)
    model = GrowthModel(QUICK, Forecaster.PERSISTENCE, fixed_prior(shipped_prior()))
    for name, forecasts in {"study": forecast_from_fewer(model, series), "nothing": []}.items():
        draw_study(scan_count_tables(forecasts), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
