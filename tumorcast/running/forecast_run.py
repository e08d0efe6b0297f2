"""Forecast a cohort on any number of ranks: units go to whoever is free, and each is written as it is finished.

The archive is the same on any number of ranks, in any order, however often the run was stopped and started again.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.archive.growth_file import GrowthFile, read_growth
from tumorcast.archive.maps import SliceForecast, VolumeForecast
from tumorcast.archive.packing import Packing
from tumorcast.archive.shard import write_shard
from tumorcast.arrival.field import FrontArrival, NetworkArrival, check_voxels
from tumorcast.data.cohort import Cohort, SessionInfo
from tumorcast.data.settings import SliceChoice
from tumorcast.durable import sha256_of
from tumorcast.engines.opening import EngineChoice, make_ready, open_engine, torch_sees_gpu
from tumorcast.engines.progression import has_volume_network, open_progression
from tumorcast.engines.protocol import Engine, ModelInfo, check_same_images
from tumorcast.engines.providers import has_granted_gpus, visible_count
from tumorcast.engines.trial import try_out, try_out_volume
from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.inputs import NOT_FITTED, UnitInputs, UnitReader
from tumorcast.forecasting.place import SLICES, ArrivalModels, open_place
from tumorcast.forecasting.plan import PatientPlan, RunPlan, plan_patient
from tumorcast.forecasting.targets import SAME_DAY, area_power, fitted_day
from tumorcast.forecasting.volume_maps import forecast_volume, held
from tumorcast.forecasting.volume_slices import SlicedField
from tumorcast.records import PatientOutcome, SessionVolume, Status
from tumorcast.running.ledger import EventLog, Ledger
from tumorcast.running.merging import account, write_archive
from tumorcast.running.outcomes import attempt
from tumorcast.running.ranks import Ranks
from tumorcast.running.stopping import Stopping, stopping_of_job
from tumorcast.running.work_queue import Tally
from tumorcast.running.worker import WorkEnd, node_name, work_on_ranks
from tumorcast.settings import ForecastSettings, NetworkKind, Provider
from tumorcast.version import VERSION

log = logging.getLogger(__name__)

AHEAD_RANKS = 2  # units are taken ahead while more than so many a rank are left


@dataclass(frozen=True)
class ForecastInputs:
    """The files a forecast is made from; growth is needed where a horizon is asked for.

    engine: None for growth maps alone; or without paths, to say what computes the network that `place` names. place:
    what foretells where tumours go (forecasting.place); None is the engine's own progression network on volumes, if it
    has one. left_out: each patient by a model of `place`
    that has not learned from them. before_last_scan: as if each patient's last scan had not been taken yet.
    """

    cohort: Path
    engine: EngineChoice | None
    growth: Path | None
    place: Path | None = None
    left_out: bool = False
    before_last_scan: bool = False


@dataclass(frozen=True)
class RunOptions:
    """How a run ends and begins again. Nothing of it enters the result.

    merge: write the archive at the end; packing: of the archive; retry_failed: do again what failed.
    """

    merge: bool = True
    packing: Packing = Packing.BLOSC2
    retry_failed: bool = False


@dataclass(frozen=True)
class ForecastResult:
    """How each patient fared, in the order of the cohort, as far as is known: rank 0 alone knows it.

    stopped: the run was stopped before its end, and is resumed by starting it again. lost: ranks that left since their
    engine failed, with machine and reason.
    """

    outcomes: list[PatientOutcome]
    stopped: bool
    lost: tuple[str, ...] = ()


Report = Callable[[Tally], None]
ALONE = Ranks()
AS_USUAL = RunOptions()


def forecast_cohort(
    inputs: ForecastInputs,
    out: Path,
    settings: ForecastSettings,
    options: RunOptions = AS_USUAL,
    *,
    ranks: Ranks = ALONE,
    report: Report = lambda _: None,
) -> ForecastResult:
    """Write the archive of forecasts to `out`, resuming what a stopped run left. Every rank must call it.

    Inputs that do not fit each other, and engines that are not there, are refused before anything is written.
    """
    growth = None if inputs.growth is None else read_growth(inputs.growth)
    makers = _opened(inputs, settings, ranks)
    with Cohort.open(inputs.cohort) as file:
        cohort = file.before_last_scan() if inputs.before_last_scan else file
        if makers.fault is None:
            makers = _checked(cohort, makers, inputs, settings)
        if ranks.is_root and makers.place is not None:
            _tell_of_place(makers.place, cohort, inputs, settings)
        if settings.horizon_days is not None:
            _check_growth_of(cohort, growth, inputs)
        provenance = ranks.from_root(_provenance(inputs, cohort, makers, settings) if ranks.is_root else None)
        ledger = Ledger(out, provenance)
        run = _ForecastRun(cohort, growth, makers, settings, options, ledger, ranks, report)
        before = ranks.from_root(run.completed() if ranks.is_root else None)
        if before is not None:
            return ForecastResult(before, stopped=False)
        if not ranks.is_root:
            return run.on_this_rank()
        with ledger.held():
            return run.on_this_rank()


@dataclass(frozen=True)
class Makers:
    """What makes images, and growth maps in three dimensions; one of the two at least.

    fault: why this rank has neither, while rank 0 has.
    """

    engine: Engine | None
    place: ArrivalModels | None
    fault: str | None = None

    def try_out(self) -> None:
        """Have all of them compute. Raises EngineError if one cannot."""
        if self.engine is not None:
            try_out(self.engine)
        if self.place is not None:
            for model in {id(model): model for model in (self.place.model, *self.place.left_out.values())}.values():
                if isinstance(model, NetworkArrival):
                    try_out_volume(model.network)


def _opened(inputs: ForecastInputs, settings: ForecastSettings, ranks: Ranks) -> Makers:
    """What this rank computes with, ready for the first unit. Raises EngineError on rank 0, which plans, alone."""
    if inputs.engine is not None:
        inputs = replace(inputs, engine=own_gpu(inputs.engine, ranks))
    try:
        engine = None
        if inputs.engine is not None and not settings.maps_only:
            engine = open_engine(inputs.engine)
            make_ready(engine)
        return Makers(engine, _open_place(inputs, engine))
    except EngineError as fault:
        if ranks.size == 1:
            raise
        if ranks.is_root:
            raise EngineError(f"rank 0 on {node_name()}: {fault}") from fault
        return Makers(None, None, str(fault))


def _checked(cohort: Cohort, makers: Makers, inputs: ForecastInputs, settings: ForecastSettings) -> Makers:
    """What of them fits the cohort. Raises InputError or UsageError where what is needed does not."""
    if makers.engine is not None:
        _check_fit_for(cohort, makers.engine.info, settings)
    return replace(makers, place=_checked_place(cohort, makers.place, inputs, settings))


def _open_place(inputs: ForecastInputs, engine: Engine | None) -> ArrivalModels | None:
    """What foretells where tumours go: what the user named, or the model's own network on volumes, or else the front.

    None where slices are to be forecast one by one.
    """
    choice = inputs.engine or EngineChoice(())
    provider, device = choice.provider, choice.device
    if inputs.place is not None and str(inputs.place) != SLICES:
        return open_place(inputs.place, provider, device, left_out=inputs.left_out)
    if inputs.left_out:
        raise UsageError(
            "--left-out goes with --place FOLDER, a folder of `tumorcast fit-place`; leave it out, as for --place front"
        )
    if inputs.place is not None:
        if engine is None:
            raise UsageError(f"--place {SLICES}: --maps-only makes maps in three dimensions; leave out one of the two")
        return None
    has_network = False
    if engine is not None:
        has_network = engine.info.progression is NetworkKind.PROGRESSION
    elif choice.model_paths:
        has_network = has_volume_network(choice.model_paths)
    if has_network:
        return ArrivalModels(NetworkArrival(open_progression(choice.model_paths, provider, device)))
    return ArrivalModels(FrontArrival())


def _tell_of_place(place: ArrivalModels, cohort: Cohort, inputs: ForecastInputs, settings: ForecastSettings) -> None:
    note = place.note(cohort.patient_ids(), asked_left_out=inputs.left_out)
    if note is not None:
        log.warning(note)
    choice, models = inputs.engine, (place.model, *place.left_out.values())
    no_network = settings.maps_only and not any(isinstance(model, NetworkArrival) for model in models)
    if no_network and choice is not None and (choice.provider or choice.device):
        log.warning("--provider, --device: are for networks, and %s has none; it runs on the CPU", place.model.name)


def _checked_place(
    cohort: Cohort, place: ArrivalModels | None, inputs: ForecastInputs, settings: ForecastSettings
) -> ArrivalModels | None:
    """None where the cohort has slices alone, which is told. Raises InputError or UsageError where maps are needed."""
    if place is not None and not cohort.keeps_volumes:
        asked = inputs.place is not None or bool(settings.later_horizons)
        what = (
            f"{cohort.path}: keeps no volumes, so there are no growth maps in three dimensions; prepare whole scans "
            "again, without --voxel-mm 0"
        )
        if settings.maps_only:
            raise InputError(what)
        if asked or not isinstance(place.model, FrontArrival):
            log.warning(what)
        place = None
    if place is not None and cohort.voxel_mm is not None:
        check_voxels(place.model, cohort.voxel_mm)
    if settings.later_horizons and place is None:
        remedy = (
            "leave out --place slices" if cohort.keeps_volumes else "prepare whole scans again, without --voxel-mm 0"
        )
        raise UsageError(
            "--horizon-days: several are for growth maps in three dimensions, which are not made here; give one day, "
            f"or {remedy}"
        )
    return place


def own_gpu(choice: EngineChoice, ranks: Ranks) -> EngineChoice:
    """Of several GPUs, the ranks of a machine take one each by turns, where the user named none.

    Torch, which else takes the CPU, takes one where it is named and the scheduler granted some.
    """
    if choice.device is not None or choice.provider in (None, Provider.CPU):
        return choice
    count = visible_count(os.environ)
    if choice.provider is Provider.TORCH:
        if not has_granted_gpus(os.environ):
            return choice
        if not torch_sees_gpu():
            log.warning(
                "--provider torch: takes the CPU, though the job was granted a GPU: torch sees none here; install a "
                "torch for CUDA, or give --device cuda, which tells why, or --device cpu to be silent"
            )
            return choice
        return replace(choice, device=f"cuda:{ranks.local_rank % max(count, 1)}")
    return choice if count < 2 else replace(choice, device=f"cuda:{ranks.local_rank % count}")


def _check_fit_for(cohort: Cohort, model: ModelInfo, settings: ForecastSettings) -> None:
    check_same_images(cohort, model.images)
    if settings.sampler.noise_level > model.noise_levels:
        raise UsageError(
            f"noise_level = {settings.sampler.noise_level} exceeds the {model.noise_levels} levels that denoiser and "
            "regressor were trained for; lower --noise-level"
        )


def _check_growth_of(cohort: Cohort, growth: GrowthFile | None, inputs: ForecastInputs) -> None:
    """Raise UsageError without a growth file, InputError if it is of none of the cohort's patients and scans.

    A patient who does not fit beside others that do fails alone, later.
    """
    if growth is None:
        raise UsageError("--horizon-days needs --growth growth.h5 (`tumorcast fit`); or give --relative-change")
    if not cohort.dated:
        raise InputError(
            f"{inputs.cohort}: its scans have no dates, so a horizon in days means nothing; "
            "prepare it with --clinical, or give --relative-change"
        )
    fault_of = partial(_growth_fault, cohort, growth, before_last_scan=inputs.before_last_scan)
    faults = (fault_of(patient_id) for patient_id in cohort.patient_ids())
    first = next(faults, None)
    if first is not None and all(faults):
        raise InputError(f"{growth.path}: fits no patient of {inputs.cohort}: {first}")


def _last_scan(cohort: Cohort, patient_id: str) -> SessionInfo:
    """The scan that is forecast from. Raises InputError if there is none."""
    infos = cohort.sessions(patient_id)
    if not infos:
        raise InputError(f"{patient_id}: has one scan, and so none before its last to forecast from")
    return infos[-1]


def _growth_fault(cohort: Cohort, growth: GrowthFile, patient_id: str, *, before_last_scan: bool) -> str | None:
    """Why a patient cannot be forecast from the growth file; None if it is of them."""
    if patient_id not in growth:
        return NOT_FITTED.format(patient_id)
    try:
        series, last = growth.series(patient_id), _last_scan(cohort, patient_id)
        fitted_day(series, last.day)
        area_power(series.size_name)
        if before_last_scan and series.days[-1] > last.day + SAME_DAY:
            return (
                f"{patient_id}: growth was fitted to scans after day {last.day:g} too, which are yet to come here; "
                "fit with --before-last-scan too, or give --relative-change"
            )
    except InputError as fault:
        return str(fault)
    return None


def _provenance(inputs: ForecastInputs, cohort: Cohort, makers: Makers, settings: ForecastSettings) -> dict[str, Any]:
    """What the result is made of; another device of the same kind may go on with a run, so it is not in here."""
    engine, place = makers.engine, makers.place
    return {
        "version": VERSION,
        "settings": settings.model_dump(mode="json"),
        "cohort_sha256": cohort.sha256,
        "growth_sha256": sha256_of(inputs.growth) if inputs.growth else None,
        "model_sha256": None if engine is None else engine.info.sha256,
        "contrasts": [str(contrast) for contrast in cohort.contrasts],
        "engine": None if engine is None else _engine_of(inputs, engine),
        "judge": None if engine is None else str(engine.info.size_reader),
        "place": None if place is None else place.record(),
        "before_last_scan": inputs.before_last_scan or None,
    }


def _engine_of(inputs: ForecastInputs, engine: Engine) -> str:
    precision = None if inputs.engine is None else inputs.engine.precision
    return str(engine.provider) if precision is None else f"{engine.provider} {precision}"


@dataclass
class _ForecastRun:
    """One run, as each rank sees it."""

    cohort: Cohort
    growth: GrowthFile | None
    makers: Makers
    settings: ForecastSettings
    options: RunOptions
    ledger: Ledger
    ranks: Ranks
    report: Report

    def completed(self) -> list[PatientOutcome] | None:
        """How each patient fared, if nothing is left to do. Raises UsageError if another result stands there."""
        self.ledger.check_archive()
        before = self.ledger.completed()
        failed = before is not None and any(outcome.status is Status.FAILED for outcome in before)
        if before is None or (failed and self.options.retry_failed):
            return None
        log.warning("%s: already complete with these settings and inputs; nothing to do", self.ledger.archive)
        if failed:
            log.warning("%s: patients that failed are tried again with --retry-failed", self.ledger.archive)
        return before

    def on_this_rank(self) -> ForecastResult:
        """Plan, work, and on rank 0 settle the accounts and merge."""
        plan, left_out = self._planned()
        order = self._to_do(plan)
        stopping = stopping_of_job(self.ranks)
        with EventLog(self.ledger.events, self.ranks.rank) as events, stopping.handle_signals():
            end = self._work(plan, order, events, stopping)
            if not self.ranks.is_root:
                return ForecastResult([], end.stopped)
            accounts = account(self.ledger, plan, left_out)
            outcomes, stopped = accounts.outcomes, end.stopped or bool(accounts.missing)
            if not stopped and self.options.merge:
                events.write("merging")
                packing = self.options.packing
                outcomes = write_archive(self.ledger, plan, outcomes, self.ledger.archive, packing=packing)
                events.write("merged")
        return ForecastResult(outcomes, stopped, end.lost)

    def _planned(self) -> tuple[RunPlan, dict[str, str]]:
        """Rank 0's plan, on every rank."""
        planned = None
        if self.ranks.is_root:
            self.ledger.open()
            if self.options.retry_failed:
                self.ledger.forget_failures()
            plan, left_out = self._plan()
            planned = plan.to_json(), left_out
        text, left_out = self.ranks.from_root(planned)
        return RunPlan.from_json(text), left_out

    def _plan(self) -> tuple[RunPlan, dict[str, str]]:
        """As it was written when the run was begun; else made, which looks at every patient."""
        if self.ledger.plan_path.exists() and not self.options.retry_failed:
            return self.ledger.read_plan()
        patients, left_out = [], {}
        for patient_id in self.cohort.patient_ids():
            planned = attempt(patient_id, partial(self._plan_patient, patient_id))
            if isinstance(planned, PatientOutcome):
                left_out[patient_id] = planned.reason
                planned = PatientPlan(patient_id, "", ())
            patients.append(planned)
        plan = RunPlan.of(tuple(patients), self.settings)
        self.ledger.write_plan(plan, left_out)
        return plan, left_out

    @cached_property
    def _reader(self) -> UnitReader:
        return UnitReader(self.cohort, self.growth, self.settings, volumes=self.makers.place is not None)

    def _plan_patient(self, patient_id: str) -> PatientPlan:
        images, volumes = self.makers.engine is not None, self.makers.place is not None
        _last_scan(self.cohort, patient_id)  # there is one
        if not images and not self.cohort.has_volume(patient_id, self.cohort.sessions(patient_id)[-1].id):
            raise InputError(f"{patient_id}: its last scan has no volume; prepare the whole scan again")
        one_slice = self.cohort.config.get("settings", {}).get("slices") == str(SliceChoice.LARGEST)
        grown = None if one_slice else partial(self._grown, patient_id)
        most = self.settings.max_slices
        return plan_patient(self.cohort, patient_id, most, images=images, volumes=volumes, grown=grown)

    def _grown(self, patient_id: str, volume: SessionVolume) -> npt.NDArray[np.float32]:
        """The growth map of the patient's volume at the first horizon."""
        assert self.makers.place is not None, "else no volume were planned"
        day = _last_scan(self.cohort, patient_id).day
        ratios = held(self._reader.targets_of(patient_id, day).volume_ratio[0], volume)
        return self.makers.place.of(patient_id).field(volume, self.cohort.contrasts).probability(ratios)

    def _to_do(self, plan: RunPlan) -> npt.NDArray[np.int64]:
        """The units that are neither done nor failed, longest first. The ranks look at the shards together."""
        mine = [
            number
            for number in range(self.ranks.rank, len(plan), self.ranks.size)
            if not self.ledger.is_done(plan[number]) and self.ledger.reason_of_failure(plan[number]) is None
        ]
        left = np.zeros(len(plan), np.bool_)
        for part in self.ranks.all_of(mine):
            left[part] = True
        order = plan.longest_first()
        return order[left[order]]

    def _work(self, plan: RunPlan, order: npt.NDArray[np.int64], events: EventLog, stopping: Stopping) -> WorkEnd:
        """Do units until none is left."""
        events.write(
            "opened",
            units=len(order),
            ranks=self.ranks.size,
            local_rank=self.ranks.local_rank,
            threads=self.ranks.threads_per_rank,
            device="cpu" if self.makers.engine is None else self.makers.engine.device,
            visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
        reader = self._reader
        job = ForecastJob(reader, self.makers, plan, self.ledger)
        return work_on_ranks(
            order,
            job,
            self.ranks,
            stopping,
            ahead_of=AHEAD_RANKS * self.ranks.size,
            record_event=events.write,
            report=self.report,
            unable=self.makers.fault,
        )


@dataclass(frozen=True)
class ForecastJob:
    """A unit of a forecast, as a `UnitJob`, kept as a shard.

    Slices of a patient for a block of members; or its volume, for all of them.
    """

    reader: UnitReader
    makers: Makers
    plan: RunPlan
    ledger: Ledger
    sliced: dict[str, SlicedField] = field(default_factory=dict, repr=False)

    def name(self, unit: int) -> str:
        """The unit's key: patient, first slice, block of members."""
        return self.plan[unit].key

    def read(self, unit: int) -> UnitInputs:
        """The patient's slices and targets."""
        return self.reader.read(self.plan[unit])

    def compute(self, inputs: UnitInputs) -> dict[str, SliceForecast] | VolumeForecast:
        """The forecast of each slice, by its name; or that of the volume."""
        reader, makers = self.reader, self.makers
        if inputs.unit.slices:
            assert makers.engine is not None, "else no slice were planned"
            return forecast_unit(
                inputs.unit,
                inputs.slices,
                inputs.targets,
                makers.engine,
                reader.settings,
                sliced=self._sliced(inputs),
            )
        assert makers.place is not None and inputs.volume is not None, "else no volume were planned"
        model = makers.place.of(inputs.unit.patient_id)
        return forecast_volume(inputs.volume, reader.cohort.contrasts, inputs.targets, model, reader.settings)

    def try_out(self) -> None:
        """Have engine and networks answer for a phantom."""
        self.makers.try_out()

    def _sliced(self, inputs: UnitInputs) -> SlicedField | None:
        """The field that the slices of a patient are guided by, kept for its next unit."""
        volume, place, patient_id = inputs.volume, self.makers.place, inputs.unit.patient_id
        if volume is None or place is None or not volume.tumour.any():
            return None
        if patient_id not in self.sliced:
            self.sliced.clear()
            found = place.of(patient_id).field(volume, self.reader.cohort.contrasts)
            self.sliced[patient_id] = SlicedField.of(found, volume, inputs.targets)
        return self.sliced[patient_id]

    def write(self, inputs: UnitInputs, product: dict[str, SliceForecast] | VolumeForecast) -> None:
        """Write the unit's shard."""
        slices, volume = ({}, product) if isinstance(product, VolumeForecast) else (product, None)
        write_shard(self.ledger.shard(inputs.unit), self.ledger.key(inputs.unit), inputs.patient, slices, volume)

    def write_failure(self, unit: int, reason: str) -> None:
        """Keep why the unit failed."""
        self.ledger.write_failure(self.plan[unit], reason)
