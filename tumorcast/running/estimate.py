"""How long a forecast of a cohort will take, and what room, from a unit of it that is done here or a given speed."""

import math
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.data.cohort import Cohort
from tumorcast.diffusion.box import BoxGuidance, EncodedPath
from tumorcast.diffusion.sampler import Array, Indices, StepGuidance
from tumorcast.diffusion.schedule import BoxStep, Step
from tumorcast.engines.protocol import Engine, EngineWrapper
from tumorcast.errors import InputError
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.inputs import UnitReader, slices_of
from tumorcast.forecasting.plan import RunPlan, Unit, plan_patient
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import ForecastSettings

CHANGES = (0.8, 2.0)  # areas aimed at in the trial, so that its members share encodings as a real forecast's do
PARALLEL_SHARE = 0.9  # of the ranks' time that is work: they begin and end at different moments
COPIES = 4  # of a member's image that are alive at once: members, sampler's state, ε, probabilities
KIB = 1024
Result = TypeVar("Result")


class TimedEngine(EngineWrapper):
    """An engine that counts the seconds of each of its steps and loops."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.seconds: dict[str, float] = {}

    def encode_step(self, x: Array, step: Step, previous_eps: Array) -> tuple[Array, Array]:
        """The engine's."""
        return self._timed("encoding", partial(super().encode_step, x, step, previous_eps))

    def encode(self, x: Array, steps: Sequence[Step]) -> list[Array]:
        """The engine's own loop."""
        return self._timed("encoding", partial(self.engine.encode, x, steps))

    def decode(self, x: Array, steps: Sequence[Step], guidance: StepGuidance, targets: Array) -> Array:
        """The engine's own loop."""
        return self._timed("guided steps", partial(self.engine.decode, x, steps, guidance, targets))

    def survey(self, x: Array, step: Step, previous_eps: Array, outside: Array) -> tuple[Array, Array, Array]:
        """The engine's."""
        return self._timed("encoding", partial(super().survey, x, step, previous_eps, outside))

    def box_step(
        self, departure: Array, step: BoxStep, previous: Array, path: EncodedPath, guidance: BoxGuidance
    ) -> tuple[Array, Array, Array]:
        """The engine's."""
        return self._timed("guided steps", partial(super().box_step, departure, step, previous, path, guidance))

    def decode_in_box(
        self,
        steps: Sequence[BoxStep],
        levels: Sequence[EncodedPath],
        starts: Indices,
        guidance: BoxGuidance,
        targets: Array,
    ) -> Array:
        """The engine's own loop."""
        loop = partial(self.engine.decode_in_box, steps, levels, starts, guidance, targets)
        return self._timed("guided steps", loop)

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        """The engine's."""
        return self._timed("sizes", partial(super().sizes, x, t, brain))

    def segment(self, images: Array) -> Array:
        """The engine's."""
        return self._timed("segmentation", partial(super().segment, images))

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """The engine's."""
        return self._timed("progression", partial(super().predict_progression, images, outline, log_ratio))

    def _timed(self, name: str, work: Callable[[], Result]) -> Result:
        began = time.perf_counter()
        result = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return result


@dataclass(frozen=True)
class Trial:
    """One unit that was done: images made, seconds by what took them, bytes of its shard and of this process."""

    images: int
    seconds: dict[str, float]
    shard_bytes: int
    process_bytes: int
    slices: int

    @property
    def images_a_second(self) -> float:
        """Of one rank like this one."""
        return self.images / sum(self.seconds.values())


@dataclass(frozen=True)
class RunEstimate:
    """What the run takes. images: members of all slices; rank_hours: hours of one rank (one GPU, or these cores)."""

    patients: int
    slices: int
    units: int
    images: int
    images_a_second: float
    longest_unit_seconds: float
    shard_bytes: int
    rank_bytes: int
    shares: dict[str, float]

    @property
    def rank_hours(self) -> float:
        """Hours that one rank would need."""
        return self.images / self.images_a_second / 3600

    def ranks_for(self, hours: float) -> int:
        """How many ranks finish in so many hours; never more than there are units."""
        return max(1, min(self.units, math.ceil(self.rank_hours / (PARALLEL_SHARE * hours))))

    @property
    def dominant(self) -> str:
        """What takes most of the time, in words."""
        if not self.shares:
            return "not known: the speed was given"
        name, share = max(self.shares.items(), key=lambda item: item[1])
        return f"{name}: {share:.0%} of the time"


def plan_run(cohort: Cohort, settings: ForecastSettings) -> RunPlan:
    """Every unit of the cohort. Raises InputError where there is none."""
    patients = [plan_patient(cohort, patient_id, settings.max_slices) for patient_id in cohort.patient_ids()]
    plan = RunPlan.of(tuple(patients), settings)
    if not len(plan):
        raise InputError(
            f"{cohort.path}: no patient's last scan has a slice with tumour to forecast; prepare scans with masks"
        )
    return plan


def try_unit(cohort: Cohort, plan: RunPlan, engine: Engine, settings: ForecastSettings) -> Trial:
    """Do the first unit twice, with as many members as fill a batch, and time it the second time."""
    as_a_batch = {"members": min(settings.members, settings.block, settings.batch), "keep_members": False}
    settings = settings.model_copy(update=as_a_batch)
    unit = replace(plan[0], first=0, last=settings.members)
    _unit(cohort, unit, engine, settings)  # opens graphs, and lets a GPU's libraries choose
    timed = TimedEngine(engine)
    began = time.perf_counter()
    size = _unit(cohort, unit, timed, settings)
    seconds = timed.seconds | {"reading, maps and writing": 0.0}
    seconds["reading, maps and writing"] = time.perf_counter() - began - sum(seconds.values())
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    return Trial(unit.images, seconds, size, process, len(unit.slices))


def _unit(cohort: Cohort, unit: Unit, engine: Engine, settings: ForecastSettings) -> int:
    """Read, forecast and write a unit as a run does; the bytes of its shard."""
    spread = PatientTargets(np.linspace(*CHANGES, settings.members), None, None)
    targets = spread if settings.relative_change is None else PatientTargets.fixed(settings)
    no_change = settings.model_copy(update={"horizon_days": None, "relative_change": 0.0})
    patient = UnitReader(cohort, None, no_change).read(unit).patient
    forecasts = forecast_unit(unit, slices_of(unit, cohort), targets, engine, settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.h5"
        write_shard(path, ShardKey("", unit.key), patient, forecasts)
        return path.stat().st_size


def estimate(
    plan: RunPlan, settings: ForecastSettings, trial: Trial, image_bytes: int, images_a_second: float | None = None
) -> RunEstimate:
    """What all units take. image_bytes: of one image (C, H, W) float32; images_a_second: overrules the trial's."""
    slices = sum(len(patient.slices) for patient in plan.patients)
    rate = images_a_second or trial.images_a_second
    largest = max(unit.images for unit in plan)
    kept = image_bytes * settings.members if settings.keep_members else 0
    total = sum(trial.seconds.values())
    return RunEstimate(
        patients=sum(bool(patient.slices) for patient in plan.patients),
        slices=slices,
        units=len(plan),
        images=slices * settings.members,
        images_a_second=rate,
        longest_unit_seconds=largest / rate,
        shard_bytes=round(slices * (trial.shard_bytes / trial.slices + kept)),
        rank_bytes=trial.process_bytes + COPIES * (largest - trial.images) * image_bytes,
        shares={} if images_a_second else {name: part / total for name, part in trial.seconds.items()},
    )
