from pathlib import Path

import numpy as np
import pytest

from tumorcast.growth.model import GrowthModel, fixed_prior
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.scan_count import forecast_from_fewer, scan_count_tables
from tumorcast.growth.settings import FitSettings
from tumorcast.records import ChemotherapyCourse, Forecaster, RadiotherapyCourse, SizeSeries, Treatment
from tumorcast.report.growth_figures import draw_patient, draw_study

QUICK = FitSettings(replicates=20, starts=8, scouts=3, finalists=1, pilots=4)
TREATED = Treatment(
    (RadiotherapyCourse(-60.0, -20.0),), (ChemotherapyCourse(-60.0, 90.0), ChemotherapyCourse(100.0, np.inf))
)
DAYS = np.array([0.0, 60.0, 130.0, 180.0])


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


def test_the_study_is_drawn(tmp_path: Path) -> None:
    series = SizeSeries("A", "enhancing_mm3", DAYS, np.array([9000.0, 12_000, 900, 8000]), TREATED)
    model = GrowthModel(QUICK, Forecaster.PERSISTENCE, fixed_prior(shipped_prior()))
    for name, forecasts in {"study": forecast_from_fewer(model, series), "nothing": []}.items():
        draw_study(scan_count_tables(forecasts), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
