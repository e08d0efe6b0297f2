"""A patient's last scan, forecast from the one before with what other patients have taught: leave-patient-out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

import numpy as np

from tumorcast.data.cohort import Cohort, SessionInfo, SizeMeasure
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError
from tumorcast.evaluation.archive_methods import Baseline, Unguided
from tumorcast.evaluation.evaluate import EvaluationSettings, SizeGiven, slice_row
from tumorcast.evaluation.judging import Figures, map_figures
from tumorcast.evaluation.methods import Method, distance_mm, paper_map
from tumorcast.evaluation.pairs import Pair
from tumorcast.evaluation.past_targets import targets_from_past
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.pixel_model import LEAST_PIXELS, PixelModel, PixelModelEngine, slice_pairs
from tumorcast.forecasting.plan import PlannedSlice, Unit
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.growth.model import GrowthModel
from tumorcast.settings import ForecastSettings

INTERVAL_DRAWS = 400
LEAST_JUDGED = LEAST_PIXELS // 2  # pixels of a present outline that is forecast: below, a mask is a speck


class Aim(StrEnum):
    """The size aimed at: the true one, an upper bound; or that of a growth forecast from the scans before."""

    TRUTH = "truth"
    POPULATION = "population"


@dataclass(frozen=True)
class LastScan:
    """A patient's last scan with a mask, and the one before, from which it is forecast."""

    patient_id: str
    before: SessionInfo
    after: SessionInfo
    pairs: tuple[Pair, ...]

    @classmethod
    def of(cls, cohort: Cohort, patient_id: str, most: int | None = None) -> "LastScan":
        """The last scan and its slices. most: those with most tumour before; None takes all.

        Raises InputError if there are no two such scans, or no slice with tumour in the first is in the second.
        """
        outlined = [info for info in cohort.sessions(patient_id) if np.isfinite(info.area_mm2).any()]
        if len(outlined) < 2:
            raise InputError(
                f"{cohort.path}: {patient_id} has {len(outlined)} scans with a mask and needs two; leave it out"
            )
        before, after = outlined[-2:]
        pairs = sorted(_pairs(cohort, patient_id, before, after), key=lambda pair: -pair.now.area_mm2)
        if not pairs:
            raise InputError(
                f"{cohort.path}: {patient_id} has no slice with {LEAST_JUDGED} pixels of tumour in {before.id} that "
                f"{after.id} has too; prepare it with --slices all, from scans registered to one grid"
            )
        chosen = sorted(pairs[:most], key=lambda pair: pair.now.source_slice)
        return cls(patient_id, before, after, tuple(chosen))

    @property
    def ratio(self) -> float:
        """The later area over the present one, of the slices forecast."""
        now, later = (sum(getattr(pair, name).area_mm2 for pair in self.pairs) for name in ("now", "later"))
        return float(later / now)

    @property
    def days(self) -> float:
        """Between the two."""
        return self.after.day - self.before.day


def _pairs(cohort: Cohort, patient_id: str, before: SessionInfo, after: SessionInfo) -> Iterator[Pair]:
    later = {int(number): place for place, number in enumerate(after.source_slice)}
    for place, number in enumerate(before.source_slice):
        if int(number) not in later:
            continue
        now = cohort.slice(patient_id, before.id, place)
        if int((now.labels > 0).sum()) >= LEAST_JUDGED:
            truth = cohort.slice(patient_id, after.id, later[int(number)])
            days, at = (before.day, after.day), PlannedSlice(place, int(number))
            yield Pair(patient_id, before.id, after.id, *days, at, now, truth, cohort.pixel_mm)


@dataclass(frozen=True)
class LeavePatientOut:
    """Forecasts patient after patient, each with a front that the others have taught. growth: for Aim.POPULATION.

    slices: most of a patient, those with most tumour. paper_members: of the paper's map, which is made of the slice
    with most tumour alone; 0 leaves it out.
    """

    cohort: Cohort
    engine: Engine
    growth: GrowthModel
    settings: ForecastSettings
    judged: EvaluationSettings
    slices: int | None = None
    paper_members: int = 1

    def engine_for(self, patient_id: str) -> Engine:
        """The engine with a front learned from all other patients with two scans; as it is where there are none."""
        others = [list(slice_pairs(self.cohort, name)) for name in self.cohort.patient_ids() if name != patient_id]
        taught = [slices for slices in others if slices]
        return PixelModelEngine(self.engine, PixelModel.fit(taught, self.engine)) if taught else self.engine

    def patient(self, patient_id: str, *, paper: bool) -> dict[str, Figures]:
        """A row by aim, as `Evaluator` makes them. paper: whether the paper's map is made too.

        Raises InputError if the patient cannot be forecast.
        """
        scan = LastScan.of(self.cohort, patient_id, self.slices)
        engine = self.engine_for(patient_id)
        rows = {str(aim): self._row(scan, engine, aim) for aim in Aim}
        if paper and self.paper_members:
            largest, figures = self._paper(scan, engine)
            for row in rows.values():
                row["slices"][largest]["methods"][str(Method.PAPER)] = figures
        return rows

    def _row(self, scan: LastScan, engine: Engine, aim: Aim) -> Figures:
        targets, interval = self._targets(scan, aim)
        judged = self._judged(aim)
        unit = Unit(scan.patient_id, scan.before.id, tuple(p.planned for p in scan.pairs), 0, 0, self.settings.members)
        forecasts = forecast_unit(unit, [pair.now for pair in scan.pairs], targets, engine, self.settings)
        model = Unguided(engine, self.settings)
        slices = [
            slice_row(pair, forecast, self.cohort.contrasts, judged, model)
            for pair, forecast in zip(scan.pairs, forecasts.values(), strict=True)
        ]
        return {
            "patient_id": scan.patient_id,
            "session": scan.before.id,
            "later_session": scan.after.id,
            "days": scan.days,
            "days_off": 0.0,
            "slices_left_out": 0,
            "true_ratio": scan.ratio,
            "aimed_ratio": float(np.median(targets.target_ratio)),
            "aimed_90": interval,
            "slices": slices,
        }

    def _judged(self, aim: Aim) -> EvaluationSettings:
        """Unguided diffusion knows no size: it is judged once, beside the true one."""
        if aim is Aim.TRUTH:
            return replace(self.judged, size=SizeGiven.TRUTH)
        sized = tuple(name for name in self.judged.baselines if name is not Baseline.UNGUIDED)
        return replace(self.judged, size=SizeGiven.AIMED, baselines=sized)

    def _paper(self, scan: LastScan, engine: Engine) -> tuple[int, Figures]:
        """The slice with most tumour, and the paper's map of it at the true size."""
        largest = int(np.argmax([pair.now.area_mm2 for pair in scan.pairs]))
        pair = scan.pairs[largest]
        answer = paper_map(pair, np.full(self.paper_members, pair.ratio), engine, self.settings)
        return largest, map_figures(pair, answer, distance_mm(pair))

    def _targets(self, scan: LastScan, aim: Aim) -> tuple[PatientTargets, list[float]]:
        """What the members aim at, and the 90 % interval of many more."""
        match aim:
            case Aim.TRUTH:
                return PatientTargets(np.full(self.settings.members, scan.ratio), None, None), [scan.ratio] * 2
            case Aim.POPULATION:
                low, high = np.quantile(self._drawn(scan, INTERVAL_DRAWS).target_ratio, [0.05, 0.95])
                return self._drawn(scan, self.settings.members), [float(low), float(high)]
            case _:
                assert_never(aim)

    def _drawn(self, scan: LastScan, count: int) -> PatientTargets:
        series = self.cohort.size_series(scan.patient_id, SizeMeasure.VOLUME_MM3)
        settings = self.settings.model_copy(update={"members": count})
        return targets_from_past(self.growth, series, settings, day=scan.before.day, later_day=scan.after.day)
