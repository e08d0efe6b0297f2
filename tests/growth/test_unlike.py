"""A cohort unlike the patients of a prior is noticed, and one like them is not."""

from pathlib import Path

import numpy as np
import pytest

from tumorcast.growth import unlike
from tumorcast.growth.population.combined import DENSITY_LEVELS
from tumorcast.growth.population.history import History, from_log
from tumorcast.growth.population.state_space import StateSpaceMixture
from tumorcast.growth.prior import SizePrior, UsualSurprise, shipped_prior
from tumorcast.growth.size_table import SizeColumns, read_sizes
from tumorcast.growth.unlike import scan_surprises, surprise_of, usual_surprise
from tumorcast.records import SizeSeries

NAME = "enhancing_oedema_mm3"
PRIOR = shipped_prior().for_size(NAME)
MIXTURE = PRIOR.state_space
DAYS = np.array([0.0, 55.0, 100.0, 190.0])
assert MIXTURE is not None


def drawn(count: int) -> list[SizeSeries]:
    """Patients as the mixture itself says they go on after a first scan."""
    rng = np.random.default_rng(3)
    assert MIXTURE is not None
    cohort = []
    for k, first in enumerate(rng.normal(MIXTURE.centre, 0.5 * MIXTURE.spread, count)):
        start = np.array([max(first, 7.0)])
        (path,) = MIXTURE.given(History(np.zeros(1), start)).paths(DAYS[1:], 1, rng)
        cohort.append(SizeSeries(f"P{k}", NAME, DAYS, from_log(np.append(start, path), NAME)))
    return cohort


def leaping(count: int) -> list[SizeSeries]:
    sizes = np.array([200.0, 300_000.0, 90.0, 400_000.0])
    return [SizeSeries(f"P{k}", NAME, DAYS, sizes * (1 + 0.01 * k)) for k in range(count)]


def test_the_surprise_of_what_the_mixture_foresees_is_zero_on_average() -> None:
    assert MIXTURE is not None
    known = History(DAYS[:2], np.array([9.0, 9.4]))
    places = np.arange(2, 200, 5)
    quantiles = MIXTURE.quantiles(known, 45.0, DENSITY_LEVELS)
    surprises = []
    for y in quantiles[places]:
        each, inside = scan_surprises(History(DAYS[:3], np.append(known.log_sizes, y)), MIXTURE)
        surprises.append(each[1])
        assert inside[1] == (quantiles[9] < y < quantiles[190])
    assert np.mean(surprises) == pytest.approx(0.0, abs=0.1)
    assert surprises[0] > 0.5 and surprises[-1] > 0.5 and surprises[20] < -0.3  # far ones more, the likeliest less


def test_patients_as_the_prior_expects_them_are_not_unlike() -> None:
    found = surprise_of(drawn(30), PRIOR)
    assert found is not None and not found.looks_unlike
    assert (found.patients, found.scans) == (30, 90) and abs(found.mean) < 0.35
    assert found.coverage90 == pytest.approx(0.9, abs=0.08)


def test_patients_it_does_not_expect_are_told_with_what_to_do() -> None:
    found = surprise_of(leaping(12), PRIOR)
    assert found is not None and found.looks_unlike and found.mean > 1 and found.p < 1e-4
    message = found.warning("sizes.csv", "enhancing_mm3", "oedema_mm3")
    parts = (
        f"{found.mean:.2f} nats",
        f"usual is {found.usual:.2f}",
        "36 scans of 12 patients",
        "tumorcast fit-prior",
        "--prior leave-one-out --held-out rolling",
    )
    for part in parts:
        assert part in message
    record, usual = found.record(), PRIOR.usual_surprise
    assert usual is not None and record["looks_unlike"] is True and record["usual"] == usual.mean


def test_the_same_surprise_is_usual_where_the_priors_own_patients_surprise_as_much() -> None:
    found = surprise_of(leaping(12), PRIOR)
    assert found is not None
    used = PRIOR.model_copy(update={"usual_surprise": UsualSurprise(mean=found.mean, sd=0.5, patients=50)})
    again = surprise_of(leaping(12), used)
    assert again is not None and again.mean == found.mean and again.p == pytest.approx(0.5) and not again.looks_unlike


@pytest.mark.parametrize("lacking", ["state_space", "usual_surprise"])
def test_nothing_is_said_by_a_prior_that_does_not_know(lacking: str) -> None:
    assert surprise_of(leaping(12), PRIOR.model_copy(update={lacking: None})) is None


def test_nothing_is_said_of_few_patients_and_single_scans_do_not_count() -> None:
    cohort = leaping(10)
    assert surprise_of(cohort, PRIOR) is not None
    assert surprise_of([*cohort[:9], cohort[9].part(0, 1)], PRIOR) is None


def test_of_many_patients_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlike, "MOST_PATIENTS", 11)
    found = surprise_of(leaping(40), PRIOR)
    assert found is not None and found.patients == 11


def test_the_usual_is_of_patients_that_the_mixture_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [History.of(one) for one in (*drawn(20), leaping(1)[0].part(0, 1))]
    learnt_from: list[set[int]] = []
    looked_at: list[int] = []

    def fitted(known: list[History]) -> StateSpaceMixture:
        learnt_from.append({id(each) for each in known})
        assert MIXTURE is not None
        return MIXTURE

    def surprises(history: History, mixture: StateSpaceMixture) -> tuple[np.ndarray, np.ndarray]:
        assert id(history) not in learnt_from[-1]
        looked_at.append(id(history))
        return scan_surprises(history, mixture)

    monkeypatch.setattr(StateSpaceMixture, "fitted", fitted)
    monkeypatch.setattr(unlike, "scan_surprises", surprises)
    usual = usual_surprise(histories)
    assert sorted(looked_at) == sorted(id(each) for each in histories[:20]) and len(learnt_from) == 5
    assert usual is not None and usual.patients == 20
    monkeypatch.undo()
    assert MIXTURE is not None
    means = [scan_surprises(each, MIXTURE)[0].mean() for each in histories[:20]]
    assert (usual.mean, usual.sd) == pytest.approx((np.mean(means), np.std(means, ddof=1)))
    assert usual_surprise(histories[1:]) is None  # nineteen are too few


@pytest.mark.slow
def test_the_shipped_prior_tells_its_own_patients_from_those_scanned_after_an_operation(shared_data: Path) -> None:
    """MU-Glioma-Post, from which it was learnt; LUMIERE's enhancing parts, whose first scans are post-operative."""

    def told(table: str, size: str, prior: SizePrior) -> bool:
        columns = SizeColumns(size=size, companion=prior.companion or "")
        found = surprise_of(read_sizes(shared_data / table, columns).series, prior)
        assert found is not None
        return found.looks_unlike

    for size, prior in shipped_prior().sizes.items():
        assert prior.usual_surprise is not None and prior.usual_surprise.patients == 88
        assert not told("mu_glioma_post/volumes.csv", size, prior)
    assert told("lumiere/sizes.csv", "enhancing_mm3", shipped_prior().for_size("enhancing_mm3"))
    assert not told("lumiere/sizes.csv", NAME, PRIOR)
