"""The growth curve on axes: what is drawn of fit, forecast, treatment and later scan, and how far the axes go."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.plot import Band, GrowthCurve, add_legend, plot_growth
from tumorcast.growth.settings import FitSettings
from tumorcast.records import ChemotherapyCourse, Forecaster, RadiotherapyCourse, SizeSeries, Treatment

QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
DAYS = np.arange(0.0, 101.0, 10.0)
TREATMENT = Treatment(
    (RadiotherapyCourse(5.0, 20.0), RadiotherapyCourse(60.0, 70.0)), (ChemotherapyCourse(30.0, np.inf),), (35.0,)
)


def curve_of(highest: float = 200.0, treatment: Treatment | None = None) -> GrowthCurve:
    band = Band("5–95 %", DAYS * 0, DAYS * highest / 100)
    return GrowthCurve("area_mm2", DAYS, DAYS, (band,), np.array([0.0, 50.0]), np.array([10.0, 40.0]), treatment)


@pytest.fixture
def axes() -> Axes:
    return Figure().subplots()


def labels(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_the_fit_ends_and_the_forecast_begins_with_the_last_scan(axes: Axes) -> None:
    plot_growth(axes, curve_of())
    assert labels(axes) == ["fit, 5–95 %", "fit, median", "forecast, 5–95 %", "forecast, median", "measured"]
    fit, forecast = (line.get_xdata() for line in axes.lines if line.get_gid() == "median")
    np.testing.assert_array_equal(fit, DAYS[:5])
    np.testing.assert_array_equal(forecast, DAYS[5:])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("day", "area (mm²)")


def test_treatment_is_drawn_and_stands_once_in_the_legend(axes: Axes) -> None:
    plot_growth(axes, curve_of(treatment=TREATMENT))
    add_legend(axes)
    gids = [one.get_gid() for one in (*axes.lines, *axes.patches)]
    assert [gids.count(name) for name in ("radiotherapy", "chemotherapy", "resection")] == [2, 1, 1]
    assert axes.get_xlim() == (-2.0, 102.0)  # chemotherapy without an end does not widen it
    legend = axes.get_legend()
    assert legend is not None
    measured = [text.get_text() for text in legend.get_texts()]
    assert len(measured) == len(set(measured)) == 8


def test_chemotherapy_after_the_last_day_is_not_drawn(axes: Axes) -> None:
    plot_growth(axes, curve_of(treatment=Treatment((), (ChemotherapyCourse(300.0, 400.0),))))
    assert "chemotherapy" not in labels(axes)


def test_treatment_outside_the_days_drawn_stays_out_of_the_legend(axes: Axes) -> None:
    before, after = RadiotherapyCourse(-60.0, -20.0), RadiotherapyCourse(200.0, 240.0)
    drugs = (ChemotherapyCourse(-60.0, -20.0), ChemotherapyCourse(300.0, 400.0))
    plot_growth(axes, curve_of(treatment=Treatment((before, after), drugs, (-30.0, 150.0))))
    assert not {"radiotherapy", "chemotherapy", "resection, known or inferred"} & set(labels(axes))
    assert [patch.get_gid() for patch in axes.patches] == ["radiotherapy"] * 2  # to which the report gives texts
    assert axes.get_xlim() == (-2.0, 102.0)


def test_a_course_that_began_before_the_first_day_is_in_the_legend(axes: Axes) -> None:
    course, drug = RadiotherapyCourse(-60.0, 5.0), ChemotherapyCourse(-60.0, 5.0)
    plot_growth(axes, curve_of(treatment=Treatment((course,), (drug,))))
    assert {"radiotherapy", "chemotherapy"} <= set(labels(axes))


def test_any_name_of_a_column_is_drawn(axes: Axes) -> None:
    plot_growth(axes, replace(curve_of(), size_name="vol $a^$ x"))
    FigureCanvasAgg(axes.get_figure(root=True)).draw()
    assert axes.get_ylabel() == "vol $a^$ x"


def test_the_axis_shows_medians_up_to_the_marked_day_and_bands_within_reason(axes: Axes) -> None:
    plot_growth(axes, curve_of(highest=10_000.0))
    assert axes.get_ylim() == (0.0, pytest.approx(3 * 40.0))
    plot_growth(axes, curve_of(highest=10_000.0), marked_days={"aimed at": 80.0})
    assert axes.get_ylim() == (0.0, pytest.approx(3 * 80.0))
    plot_growth(axes, curve_of(), held_out=(120.0, 190.0))
    assert axes.get_ylim() == (0.0, pytest.approx(1.12 * 190.0))
    assert axes.get_xlim()[1] == pytest.approx(122.4)


def test_a_fit_of_a_single_scan_is_drawn_from_it_on(axes: Axes) -> None:
    series = SizeSeries("A", "volume_mm3", np.array([10.0]), np.array([500.0]), TREATMENT)
    curve = GrowthCurve.from_forecast(GrowthModel(QUICK, Forecaster.MECHANISTIC, fixed_prior(None)).forecast(series))
    assert curve.days[[0, -1]].tolist() == [10.0, 375.0]
    plot_growth(axes, curve)
    assert "measured" in labels(axes)


def test_the_curve_of_an_archive_has_one_band() -> None:
    names = ("days", "q05", "q50", "q95", "observed_days", "observed_sizes")
    columns = {name: np.full(3, float(number)) for number, name in enumerate(names)}
    curve = GrowthCurve.from_columns(columns, "area_mm2")
    assert [(band.label, band.low[0], band.high[0]) for band in curve.bands] == [("5–95 %", 1.0, 3.0)]
    assert (curve.days[0], curve.median[0], curve.observed_sizes[0], curve.treatment) == (0.0, 2.0, 5.0, None)
