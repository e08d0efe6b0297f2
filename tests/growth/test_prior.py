"""Population priors: what a cohort tells, in a file, and never of the patient left out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorcast.errors import InputError
from tumorcast.growth import estimate_prior as estimate_module
from tumorcast.growth.estimate_prior import (
    EQUAL_WEIGHT,
    estimate_law_prior,
    estimate_prior,
    first_prior,
    mechanistic_weight,
)
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.laws import sizes_of, timeline_of
from tumorcast.growth.model import leave_one_out_prior
from tumorcast.growth.prior import PopulationPrior, SizePrior, covariance, read_prior, shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import LawName, RadiotherapyCourse, SizeSeries, Treatment

pytestmark = pytest.mark.slow

RATE, RATE_SD, ERROR = 0.006, 0.002, 0.1


def simulated(number: int, scans: int = 6) -> SizeSeries:
    """Exponential growth at a rate of the patient's own, first scanned long after radiotherapy."""
    rng = np.random.default_rng([7, number])
    days = np.cumsum(rng.gamma(4.0, 15.0, scans))
    treatment = Treatment((RadiotherapyCourse(days[0] - 400.0, days[0] - 358.0),))
    row = np.array([[rng.normal(RATE, RATE_SD), 0.05, 30.0, 0.1, 0.3, 0.0, 2.0, 5000.0]])
    sizes = sizes_of(LawName.EXPONENTIAL, timeline_of(treatment, days[0], days), row).ravel()
    return SizeSeries(f"S{number}", "volume_mm3", days, sizes * np.exp(rng.normal(0.0, ERROR, scans)), treatment)


@pytest.fixture(scope="module")
def cohort() -> list[SizeSeries]:
    return [simulated(number) for number in range(24)]


@pytest.fixture(scope="module")
def learnt(cohort: list[SizeSeries]) -> SizePrior:
    return estimate_prior(cohort, [LawName.EXPONENTIAL])


@pytest.mark.slow
def test_the_population_is_recovered(learnt: SizePrior) -> None:
    law = learnt.laws[LawName.EXPONENTIAL]
    assert law.parameters["rate_per_day"].mean == pytest.approx(RATE, abs=0.0015)
    assert 0.5 * RATE_SD < law.parameters["rate_per_day"].sd < 2 * RATE_SD
    spread = np.sqrt(np.diag(covariance(law.errors, np.array([0.0]))))[0]
    assert 0.5 * ERROR < spread < 2.5 * ERROR
    untold = first_prior(LawName.EXPONENTIAL).parameters["slope_per_day"]
    assert abs(law.parameters["slope_per_day"].mean - untold.mean) < untold.sd  # no scan tells of it


@pytest.mark.slow
def test_where_tumours_follow_the_law_it_weighs(learnt: SizePrior) -> None:
    assert learnt.mechanistic_weights[LawName.EXPONENTIAL] >= 0.3
    pool = learnt.pool_for(LawName.EXPONENTIAL)
    assert pool.mechanistic_weight + sum(pool.weights) == pytest.approx(1.0)
    assert (learnt.patients, learnt.scans) == (24, 144)


def test_the_law_is_weighed_against_a_pool_floored_at_nothing(
    cohort: list[SizeSeries], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that foresees nothing, with its usual share below it, leaves nothing for the law to better."""
    floor, levels = np.log(100.0), np.zeros(200)
    told = estimate_module._ScanForecast(levels + floor - 3.0, levels + floor + 0.5, floor)
    monkeypatch.setattr(estimate_module, "_forecasts", lambda *_: [told] * 20)
    assert mechanistic_weight(cohort, LawName.EXPONENTIAL) == 0.0


def test_what_is_usual_is_measured_where_others_are_to_be_compared(learnt: SizePrior) -> None:
    assert learnt.usual_surprise is not None and learnt.usual_surprise.patients == 24


@pytest.mark.slow
def test_a_small_cohort(cohort: list[SizeSeries]) -> None:
    few = estimate_prior(cohort[:12], [LawName.EXPONENTIAL])
    assert few.mechanistic_weights[LawName.EXPONENTIAL] == EQUAL_WEIGHT and few.usual_surprise is None
    with pytest.raises(InputError, match=r"9 patients .*'volume_mm3'.* 10"):
        estimate_prior(cohort[:9])
    with pytest.raises(InputError, match="0 patients"):
        estimate_prior([one.part(0, 1) for one in cohort])


@pytest.mark.slow
def test_leaving_out_never_looks_at_the_patient(cohort: list[SizeSeries]) -> None:
    settings = FitSettings()
    patient = cohort[3]
    changed = [replace(one, sizes=one.sizes[::-1].copy()) if one is patient else one for one in cohort[:14]]
    one, other = (leave_one_out_prior(patients, settings)(patient) for patients in (cohort[:14], changed))
    assert one == other
    assert one is not None and one.patients == 13


@pytest.mark.slow
def test_areas_have_the_rates_of_a_power(learnt: SizePrior) -> None:
    volume, area = (learnt.law_for(LawName.EXPONENTIAL, name) for name in ("x_mm3", "x_mm2"))
    for name, power in {"rate_per_day": 2 / 3, "survival": 2 / 3}.items():
        assert area.parameters[name].mean == pytest.approx(power * volume.parameters[name].mean)
    assert area.parameters["decay_rate_per_day"].mean == pytest.approx(
        volume.parameters["decay_rate_per_day"].mean + np.log(2 / 3)
    )
    assert area.parameters["delay_days"] == volume.parameters["delay_days"]
    assert area.errors.measurement_sd == pytest.approx(2 / 3 * volume.errors.measurement_sd)  # no stale copy


@pytest.mark.slow
def test_estimation_depends_on_its_seed_alone(cohort: list[SizeSeries]) -> None:
    first, again, other = (estimate_law_prior(cohort[:10], LawName.GOMPERTZ, rounds=2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_a_file_comes_back(learnt: SizePrior, tmp_path: Path) -> None:
    prior = PopulationPrior(source="a test", default_size="volume_mm3", sizes={"volume_mm3": learnt})
    prior.write(tmp_path / "prior.json")
    assert read_prior(tmp_path / "prior.json") == prior
    assert prior.for_size("volume_mm3") is prior.for_size("anything_mm2") is learnt
    assert prior.companion_of("volume_mm3") == prior.companion_of("anything_mm2") == ""


def test_a_law_it_does_not_know_is_told(learnt: SizePrior) -> None:
    with pytest.raises(InputError, match=r"'volume_mm3'.*exponential.*gompertz"):
        learnt.law_for(LawName.GOMPERTZ, "volume_mm3")


LAW = ("sizes", "enhancing_mm3", "laws", "exponential")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("default_size",), "other_mm3", "(default_size 'other_mm3' is not among sizes)"),
        (("sizes",), {}, "is not among sizes"),
        (("format_version",), 3, "format_version: Input should be 1 or 2"),
        (("size",), {}, "size: Extra inputs are not permitted"),
        (LAW, None, "laws.exponential: Input should be"),
        ((*LAW, "measurement_sd"), 0.0, "measurement_sd: Input should be greater than 0"),
        ((*LAW, "parameters", "rate_per_day", "mean"), float("nan"), "rate_per_day.mean: Input should be a finite"),
        ((*LAW, "parameters", "rate"), {"mean": 0, "sd": 1, "log": False}, "no law has a parameter 'rate'"),
        (("sizes", "enhancing_mm3", "mechanistic_weights", "gompertz"), 1.5, "gompertz: Input should be less than 1"),
        (("sizes", "enhancing_mm3", "mechanistic_weights"), {}, "must tell of the same laws"),
        (("sizes", "enhancing_mm3", "pool", "weights"), [1.0], "enhancing_mm3.pool: 1 weights for 4 members"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, place: tuple[str, ...], value: object, message: str) -> None:
    """With one message that names the file, the place, and what to do."""
    record = json.loads(shipped_prior().to_json())
    group = record
    for name in place[:-1]:
        group = group[name]
    group[place[-1]] = value
    path = tmp_path / "prior.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError) as fault:
        read_prior(path)
    assert message in str(fault.value)
    assert str(fault.value).startswith(f"{path}: not a prior of this version (")
    assert str(fault.value).endswith("; make it with `tumorcast fit-prior`")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a prior of this version"),
        ("{}", "not a prior of this version .source: Field required"),
        ('{"format": "other"}', "format: Input should be 'tumorcast-prior'"),
    ],
)
def test_what_is_no_prior_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prior.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as fault:
        read_prior(path)
    assert str(path) in str(fault.value) and "tumorcast fit-prior" in str(fault.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_prior(tmp_path / "none.json")


def test_the_shipped_prior_holds_parameters_only() -> None:
    prior = shipped_prior()
    assert set(prior.sizes) == {"enhancing_mm3", "enhancing_oedema_mm3"}
    assert prior.companion_of("enhancing_mm3") == "edema_infiltration_mm3"
    assert "PatientID" not in prior.to_json()
    for one in prior.sizes.values():
        assert set(one.laws) == set(one.mechanistic_weights) == set(LawName) and one.patients == 88
        for law in LawName:
            names = {"decay_rate_per_day", "delay_days", "rate_per_day", "slope_per_day", "survival"}
            saturating = set() if law is LawName.EXPONENTIAL else {"capacity_ratio"}
            assert set(one.laws[law].parameters) == names | saturating


def test_sizes_to_a_power_have_one_hierarchical_forecast(learnt: SizePrior) -> None:
    """A tumour given as v, or as v to 2/3 with the prior that is scaled so, has the same growth ahead."""
    measured = simulated(100)
    quick = FitSettings(replicates=300, starts=16, scouts=4, finalists=2, pilots=8)
    day = measured.days[-1:] + 90.0
    ends = []
    for name, power in (("x_mm3", 1.0), ("x_mm2", 2 / 3)):
        series = replace(measured, size_name=name, sizes=measured.sizes**power)
        forecast = GrowthForecast(fit_growth(series, quick, learnt.law_for(LawName.EXPONENTIAL, name)))
        ends.append(np.log(forecast.quantiles(day, np.array([0.05, 0.5, 0.95])).ravel()) / power)
    np.testing.assert_allclose(ends[0], ends[1], atol=0.05)
