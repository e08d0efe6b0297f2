"""Settings for one patient, chosen without the future: a small grid is tried on the last scan, and each point scored.

A score is the weighted mean of four figures in [0, 1], of which higher is better: size, preservation, agreement and,
where there is an earlier scan, past (see Scores). Weights and scales were fixed before any of it was tried.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy.ndimage import distance_transform_edt

from tumorcast.archive.growth_file import GrowthFile
from tumorcast.archive.maps import SliceForecast
from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.durable import written_whole
from tumorcast.engines.protocol import Engine
from tumorcast.errors import InputError, UsageError
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.inputs import UnitReader
from tumorcast.forecasting.plan import PatientPlan, PlannedSlice, Unit
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.provenance import refuse_other
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings, Settings

WEIGHTS = {"size": 0.3, "preservation": 0.2, "agreement": 0.2, "past": 0.3}
SEEDS = 2
GAINS, SCALES = (0.25, 0.5, 1.0), (25_000.0, 50_000.0, 100_000.0)
LEAST_WANTED = 0.05  # of the present area: the size missed is counted in the change wanted, and at least in this
FAR_MM = 20.0  # from the present outline: nothing is to change beyond
WORST_RMS = 0.2  # of images in [-1, 1]: a change that preserves nothing
NEAR_MM = 20.0  # from the earlier outline: where the past is foretold
LEAST_PROBABILITY = 1e-3  # so that one pixel cannot make a likelihood zero
ENOUGH_AGREEMENT = 0.9  # more members are not worth their time

Map = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Report = Callable[[int, int], None]


class SelectGrid(Settings):
    """What is tried. gain is of the normalised guidance, scale the paper's s_R: one of them, by default that in use.

    Noise levels and strengths are crossed at the fewest members; then the other numbers of members are tried with the
    best of them.
    """

    noise_level: tuple[int, ...] = Field((100, 200, 300), min_length=1)
    gain: tuple[float, ...] | None = Field(None, min_length=1)
    scale: tuple[float, ...] | None = Field(None, min_length=1)
    members: tuple[int, ...] = Field((4, 8, 16), min_length=1)

    @model_validator(mode="after")
    def _check_strength(self) -> Self:
        if self.gain is not None and self.scale is not None:
            raise ValueError("give gain (normalised guidance) or scale (the paper's), not both")
        return self

    def points(self, sampler: SamplerSettings) -> list["Point"]:
        """Noise levels × strengths, at the fewest members."""
        paper = self.scale is not None or (self.gain is None and sampler.guidance is Guidance.PAPER)
        guidance = Guidance.PAPER if paper else Guidance.NORMALISED
        strengths = (self.scale or SCALES) if paper else (self.gain or GAINS)
        pairs = itertools.product(self.noise_level, strengths)
        return [Point(level, guidance, strength, min(self.members)) for level, strength in pairs]


@dataclass(frozen=True)
class Point:
    """One point of the grid. strength: gain, or s_R under the paper's guidance."""

    noise_level: int
    guidance: Guidance
    strength: float
    members: int

    @property
    def name(self) -> str:
        """The point's name among those tried.

        >>> Point(200, Guidance.NORMALISED, 0.5, 4).name
        'NL 200, gain 0.5, 4 members'
        """
        return f"NL {self.noise_level}, {self.strength_name} {self.strength:g}, {self.members} members"

    @property
    def strength_name(self) -> str:
        """The setting that the strength is."""
        return "scale" if self.guidance is Guidance.PAPER else "gain"

    def settings(self, base: ForecastSettings) -> ForecastSettings:
        """`base` at this point. Raises UsageError if they do not go together."""
        changed = {"noise_level": self.noise_level, "guidance": self.guidance, self.strength_name: self.strength}
        values = base.model_dump() | {"members": self.members, "sampler": base.sampler.model_dump() | changed}
        return ForecastSettings.of(values, f"tumorcast select, {self.name}")


@dataclass(frozen=True)
class Scores:
    """Figures of one point, means over slices and, but for the past, over SEEDS seeds.

    size: 1 less |area gained - area wanted| over the area wanted, by the segmenter, medians over members.
    preservation: 1 less the root mean square change of members over WORST_RMS, in the brain further than FAR_MM from
    the present outline.
    agreement: 2 Σ min(a, b) / Σ (a + b) of the maps a, b of two seeds, in the brain outside the present outline.
    past: the geometric mean of the probability that a forecast of the last scan from the one before, at the size it
    came to, gave to what came of each pixel within NEAR_MM of the earlier outline; None without an earlier scan.
    Both are of the segmenter's map of the generated images: the growth map follows the progression network, where there
    is one, and hardly depends on what is chosen here.
    """

    size: float
    preservation: float
    agreement: float
    past: float | None

    @property
    def total(self) -> float:
        """The mean by WEIGHTS of those that have a value.

        >>> round(Scores(1.0, 0.5, 0.0, None).total, 3)
        0.571
        """
        held: dict[str, float] = {name: value for name, value in asdict(self).items() if value is not None}
        return sum(WEIGHTS[name] * value for name, value in held.items()) / sum(WEIGHTS[name] for name in held)


@dataclass(frozen=True)
class Earlier:
    """A slice of the scan before the last one, and what came of it."""

    session_id: str
    place: PlannedSlice
    then: CohortSlice
    now: CohortSlice


@dataclass(frozen=True)
class PatientCase:
    """What a patient's settings are chosen on. growth is needed for a horizon; plan: the slices of the last scan."""

    cohort: Cohort
    engine: Engine
    growth: GrowthFile | None
    plan: PatientPlan

    def scores(self, settings: ForecastSettings) -> Scores:
        """Forecast under `settings`, and under other seeds, and the last scan from the one before."""
        seeds = [settings.model_copy(update={"seed": settings.seed + k}) for k in range(SEEDS)]
        runs = [self.ahead(one) for one in seeds]
        every = list(itertools.chain.from_iterable(runs))
        past = [past_likelihood(forecast, now) for forecast, now in self._past(settings)]
        return Scores(
            size=_mean([size_score(forecast) for forecast in every]),
            preservation=_mean([preservation(forecast) for forecast in every]),
            agreement=_mean([agreement(a, b) for a, b in zip(*runs, strict=True)]),
            past=_mean(past) if past else None,
        )

    def ahead(self, settings: ForecastSettings) -> list[SliceForecast]:
        """An ensemble of each slice of the plan; a case that knows more of its future makes it in another way."""
        unit = Unit(self.plan.patient_id, self.plan.session_id, self.plan.slices, 0, 0, settings.members)
        found = UnitReader(self.cohort, self.growth, settings).read(unit)
        return list(forecast_unit(unit, found.slices, found.targets, self.engine, settings).values())

    @cached_property
    def earlier(self) -> list[Earlier]:
        """The plan's slices in the scan before, those with tumour in both."""
        before = [info for info in self.cohort.sessions(self.plan.patient_id) if info.n_slices][:-1]
        found = [] if not before else list(self._in_scan(before[-1].id, before[-1].source_slice))
        return [one for one in found if min(one.then.area_mm2, one.now.area_mm2) > 0 and one.then.labels.any()]

    def _in_scan(self, session_id: str, numbers: npt.NDArray[np.int64]) -> Iterator[Earlier]:
        patient_id = self.plan.patient_id
        for place in self.plan.slices:
            for index in np.flatnonzero(numbers == place.source_slice):
                then = self.cohort.slice(patient_id, session_id, int(index))
                now = self.cohort.slice(patient_id, self.plan.session_id, place.index)
                yield Earlier(session_id, PlannedSlice(int(index), place.source_slice), then, now)

    def _past(self, settings: ForecastSettings) -> Iterator[tuple[SliceForecast, CohortSlice]]:
        for one in self.earlier:
            unit = Unit(self.plan.patient_id, one.session_id, (one.place,), 0, 0, settings.members)
            ratio = np.full(settings.members, one.now.area_mm2 / one.then.area_mm2)
            targets = PatientTargets(ratio, None, None)
            (forecast,) = forecast_unit(unit, [one.then], targets, self.engine, settings).values()
            yield forecast, one.now


def size_score(forecast: SliceForecast) -> float:
    """See Scores.size."""
    wanted = float(np.median(forecast.aimed_mm2)) - forecast.present_mm2
    gained = float(np.median(forecast.reached_mm2)) - forecast.present_segmented_mm2
    return max(0.0, 1.0 - abs(gained - wanted) / max(abs(wanted), LEAST_WANTED * forecast.present_mm2))


def preservation(forecast: SliceForecast) -> float:
    """See Scores.preservation; 1 where the brain does not reach so far."""
    outside = forecast.brain & (_away_mm(forecast) > FAR_MM)
    if not outside.any():
        return 1.0
    square = np.square(forecast.mean - forecast.image) + np.square(forecast.std)  # the members' own, by their moments
    return max(0.0, 1.0 - math.sqrt(_mean(square[:, outside])) / WORST_RMS)


def agreement(a: SliceForecast, b: SliceForecast) -> float:
    """See Scores.agreement; 1 where both maps are empty."""
    outside = a.brain & (a.labels == 0)
    first, second = (forecast.tumour[outside].astype(np.float64) for forecast in (a, b))
    total = float((first + second).sum())
    return 2.0 * float(np.minimum(first, second).sum()) / total if total else 1.0


def past_likelihood(forecast: SliceForecast, now: CohortSlice) -> float:
    """See Scores.past."""
    near = forecast.brain & (forecast.labels == 0) & (_away_mm(forecast) <= NEAR_MM)
    probability = np.clip(forecast.tumour[near].astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    given = np.where(now.labels[near] > 0, probability, 1 - probability)
    return float(np.exp(_mean(np.log(given)))) if near.any() else 1.0


def _away_mm(forecast: SliceForecast) -> Map:
    """(H, W) distance to the present outline."""
    return np.asarray(distance_transform_edt(forecast.labels == 0) * np.linalg.norm(forecast.affine[:3, 0]))


def _mean(values: Any) -> float:
    return float(np.mean(values, dtype=np.float64))


@dataclass
class TrialStore:
    """A file with the scores of the points tried, kept after each, so that a stopped search goes on."""

    path: Path
    made_of: dict[str, Any]
    tried: dict[str, Scores] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, made_of: dict[str, Any]) -> Self:
        """Read what is there. Raises UsageError if it was made of something else, InputError if it is no such file."""
        if not path.exists():
            return cls(path, made_of)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            tried = {name: Scores(**scores) for name, scores in told["tried"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: not the scores of `tumorcast select`; give another --out") from None
        refuse_other(path, told["made_of"], made_of)
        return cls(path, made_of, tried)

    def scores(self, point: Point, work: Callable[[], Scores]) -> Scores:
        """The point's scores, from the file or by `work`."""
        if point.name not in self.tried:
            self.tried[point.name] = work()
            told = {"made_of": self.made_of, "tried": {name: asdict(one) for name, one in self.tried.items()}}
            with written_whole(self.path) as temporary:
                temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        return self.tried[point.name]


@dataclass(frozen=True)
class Selection:
    """The points tried with their scores, in order, and the one chosen."""

    tried: list[tuple[Point, Scores]]
    chosen: Point


def select(case: PatientCase, base: ForecastSettings, grid: SelectGrid, store: TrialStore, report: Report) -> Selection:
    """Try the grid; the highest score wins, of equal ones the first.

    Then the fewest members whose agreement is ENOUGH_AGREEMENT win, or, where none are enough, the most.
    Raises UsageError if a point's settings are not allowed or exceed the model's noise levels, before any is tried.
    """
    points, counts = grid.points(base.sampler), sorted(set(grid.members))
    total = len(points) + len(counts) - 1
    _check(points, counts, base, case.engine.info.noise_levels)
    tried: list[tuple[Point, Scores]] = []

    def attempt(point: Point) -> Scores:
        scores = store.scores(point, lambda: case.scores(point.settings(base)))
        tried.append((point, scores))
        report(len(tried), total)
        return scores

    totals = [attempt(point).total for point in points]
    best = points[int(np.argmax(totals))]
    more = [Point(best.noise_level, best.guidance, best.strength, count) for count in counts[1:]]
    for point in more:
        attempt(point)
    of_best = [best, *more]
    enough = [point for point in of_best if store.tried[point.name].agreement >= ENOUGH_AGREEMENT]
    return Selection(tried, [*enough, of_best[-1]][0])


def _check(points: Sequence[Point], counts: Sequence[int], base: ForecastSettings, noise_levels: int) -> None:
    for point in points:
        for count in counts:
            Point(point.noise_level, point.guidance, point.strength, count).settings(base)
        if point.noise_level > noise_levels:
            raise UsageError(
                f"noise_level = {point.noise_level} in the grid exceeds the {noise_levels} levels that the model was "
                "trained for; give a --grid with lower ones"
            )


def table_of_scores(selection: Selection) -> list[dict[str, Any]]:
    """A row a point, for a table; an empty cell where there is no past."""
    return [
        {
            "noise_level": point.noise_level,
            point.strength_name: point.strength,
            "members": point.members,
            **{one.name: getattr(scores, one.name) for one in fields(Scores)},
            "score": scores.total,
            "chosen": int(point == selection.chosen),
        }
        for point, scores in selection.tried
    ]


def toml_of(settings: ForecastSettings) -> str:
    """The settings as `forecast --config` reads them; what is None has no line, which TOML has no word for."""
    told = settings.model_dump(mode="json", exclude_none=True)
    sampler = told.pop("sampler")
    lines = [f"{name} = {json.dumps(value)}" for name, value in told.items()]
    return "\n".join(
        [*lines, "", "[sampler]", *(f"{name} = {json.dumps(value)}" for name, value in sampler.items()), ""]
    )
