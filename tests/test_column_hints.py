"""Columns of treatment under other names are told, and the ordinary columns of a clinical table are not."""

import csv
from dataclasses import fields
from pathlib import Path

import pytest

from tumorcast.column_hints import hints, look_alikes
from tumorcast.tables import TreatmentColumns

ORDINARY = """
patient_id session_id day timepoint date scan_date area_mm2 age sex survival_days death_day death_date diagnosis
diagnosis_date idh mgmt kps steroid_dose dexamethasone_dose resection_status extent_of_resection eor surgery chemo
radiotherapy rt_duration rt_days days_since_rt days_since_rt_start days_from_surgery progression_day recurrence_date
new_treatment_day first_surgery_day age_at_surgery multiple_surgeries brachytherapy_day immunotherapy_start_day
grade who_grade status last_day last_contact_date follow_up_end stage treatment response start end course ct ctx
therapy_start contrast_dose gadolinium_dose flip_angle resection_cavity_mm3 rano os_days pfs weight first_scan
number_of_lesions total_volume site operator option
"""
READ = [str(field.default) for field in fields(TreatmentColumns)]


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        *((name, "rt_start_day") for name in ("rt_start", "RT start day", "radiotherapy_start", "RT_Start_Day")),
        *((name, "rt_start_day") for name in ("RTstart", "rtStartDay", "Start of RT", "first day of radiation")),
        *((name, "rt_start_day") for name in ("xrt-begin", "radiotheraphy start", "rt_strat_day", "rt_day")),
        *((name, "rt_start_day") for name in ("rt_start_date", "Date of radiotherapy start", "crt_start_days")),
        *((name, "rt_end_day") for name in ("rt_end", "RT stop", "Last Day of Radiotherapy", "radiation_end_date")),
        *((name, "chemo_start_day") for name in ("chemo start", "chemotherapy_start", "tmz_start_day", "chemo_date")),
        *((name, "chemo_end_day") for name in ("chemo stop", "TMZ end (days)", "chemotherapy_last_day")),
        *((name, "resection_day") for name in ("surgery_day", "date_of_surgery", "Day of operation", "op_day")),
        *((name, "dose") for name in ("Dose", "rt_dose", "radiation_dose_gy", "total dose [Gy]", "RT dose cGy")),
        *((name, "fractions") for name in ("rt_fractions", "number_of_fractions", "Fx")),
    ],
)
def test_what_looks_like_treatment_is_told_with_what_was_meant(column: str, meant: str) -> None:
    assert look_alikes(["patient_id", "day", column], READ) == {column: meant}


@pytest.mark.parametrize("column", ORDINARY.split())
def test_ordinary_columns_are_not_told(column: str) -> None:
    assert look_alikes([column], READ) == {}


def test_a_column_that_is_read_is_not_looked_for_again() -> None:
    assert look_alikes(["rt_start_day", "rt_start", "rt_stop"], READ) == {"rt_stop": "rt_end_day"}
    assert look_alikes(["first", "rt_start"], ["first", *READ[1:]]) == {}  # the user named another column for it
    assert look_alikes(["Session ID", "Day"], ["session_id", "day"]) == {"Session ID": "session_id", "Day": "day"}


def test_the_hint_names_the_way_out() -> None:
    (told,) = hints(["RT start"], READ, {"rt_start_day": "--rt-start-column"})
    assert "'RT start'" in told and "rt_start_day" in told and "--rt-start-column" in told
    (told,) = hints(["RT start"], READ)
    assert "rename it" in told and "--" not in told
    (dated,) = hints(["rt_start_date"], READ, {"rt_start_day": "--rt-start-column"})
    assert "dates" in dated and "days" in dated and "--rt-start-column" not in dated


def test_no_false_alarm_on_real_tables(shared_data: Path) -> None:
    tables = sorted(shared_data.rglob("*.csv"))
    assert tables
    for path in tables:
        with path.open(newline="", encoding="utf-8-sig") as file:
            assert look_alikes(next(csv.reader(file)), READ) == {}, path
