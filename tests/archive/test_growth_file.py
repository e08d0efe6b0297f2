"""growth.h5: what is written comes back."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tumorcast.archive.growth_file import read_growth, write_growth
from tumorcast.errors import InputError
from tumorcast.growth.fit import FitSettings, fit_growth
from tumorcast.records import GrowthFit, RadiotherapyCourse, SizeSeries, Treatment


def fits() -> list[GrowthFit]:
    days = np.array([0.0, 50.0, 100.0, 150.0])
    course = Treatment((RadiotherapyCourse(10.0, 52.0),))
    return [
        fit_growth(
            SizeSeries("P1", "area_mm2", days, np.array([100.0, 80, 90, 130]), course), FitSettings(replicates=5)
        ),
        fit_growth(SizeSeries("P2", "volume_mm3", days[:1], np.array([100.0])), FitSettings(replicates=5)),
    ]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    written = fits()
    write_growth(tmp_path / "growth.h5", written, {"seed": 0})
    read = read_growth(tmp_path / "growth.h5")
    assert list(read) == ["P1", "P2"]
    for fit in written:
        found = read[fit.series.patient_id]
        assert found.series.treatment == fit.series.treatment
        for field in fields(GrowthFit):
            if field.name != "series":
                np.testing.assert_array_equal(getattr(found, field.name), getattr(fit, field.name))
        np.testing.assert_array_equal(found.series.sizes, fit.series.sizes)


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make it with `tumorcast fit`"):
        read_growth(tmp_path / "none.h5")
