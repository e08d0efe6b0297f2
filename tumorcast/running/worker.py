"""What a rank does with its units: read one ahead, forecast, and write the last one meanwhile."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tumorcast.archive.maps import SliceForecast
from tumorcast.archive.shard import write_shard
from tumorcast.engines.protocol import Engine
from tumorcast.errors import StoppedError
from tumorcast.forecasting.ensemble import forecast_unit
from tumorcast.forecasting.inputs import UnitInputs, UnitReader
from tumorcast.forecasting.plan import RunPlan, Unit
from tumorcast.records import PatientOutcome
from tumorcast.running.events import EventLog
from tumorcast.running.ledger import Ledger
from tumorcast.running.outcomes import attempt
from tumorcast.running.stopping import Stopping
from tumorcast.running.work_queue import STOPPED, News, Ticket, Tickets

Slices = dict[str, SliceForecast]


@dataclass
class Worker:
    """One rank at work. ahead_of: how many units must be left for the next one to be taken before this one is done.

    A unit taken ahead waits for this rank even if another is idle, so near the end none is.
    """

    reader: UnitReader
    engine: Engine
    plan: RunPlan
    ledger: Ledger
    tickets: Tickets
    stopping: Stopping
    events: EventLog
    ahead_of: int = 0

    def __post_init__(self) -> None:
        """Nothing is done."""
        self._done = self._failed = 0
        self._longest = 0.0
        self._stopped = False
        self._writing: tuple[Unit, Future[None]] | None = None

    def work(self) -> bool:
        """Units until none is left, or until it shall stop; returns whether it was stopped."""
        with ThreadPoolExecutor(1, "files") as files:
            try:
                self._units(files)
            except StoppedError as dropped:
                self.events.write("dropped", reason=str(dropped))
            self._finish_writing()
        stopped = self._stopped or self.stopping.requested
        self.tickets.take(self._news(last=True))
        self.events.write("stopped" if stopped else "through")
        return stopped

    def _units(self, files: ThreadPoolExecutor) -> None:
        taken = self._take(files)
        while taken is not None and self.stopping.may_begin(self._longest):
            unit, reading, left = taken
            taken = self._take(files) if left > self.ahead_of else None
            self._one(unit, reading, files)
            taken = taken or self._take(files)

    def _take(self, files: ThreadPoolExecutor) -> tuple[Unit, Future[UnitInputs | PatientOutcome], int] | None:
        """The next unit, which is being read, and how many are left after it."""
        ticket: Ticket = self.tickets.take(self._news())
        self._stopped = self._stopped or ticket.unit == STOPPED
        if ticket.unit < 0:
            return None
        unit = self.plan[ticket.unit]
        return unit, files.submit(attempt, unit.patient_id, partial(self.reader.read, unit)), ticket.left

    def _one(self, unit: Unit, reading: Future[UnitInputs | PatientOutcome], files: ThreadPoolExecutor) -> None:
        """Forecast a unit; then wait for the one before to be written, and have this one written."""
        inputs = reading.result()
        began = time.monotonic()
        self.events.write("begun", unit=unit.key)
        found = inputs if isinstance(inputs, PatientOutcome) else self._forecast(inputs)
        seconds = time.monotonic() - began
        self._longest = max(self._longest, seconds)
        self._finish_writing()
        if isinstance(found, PatientOutcome):
            self.ledger.write_failure(unit, found.reason)
            self._failed += 1
            self.events.write("failed", unit=unit.key, seconds=round(seconds, 3), reason=found.reason)
            return
        assert isinstance(inputs, UnitInputs)
        self._writing = unit, files.submit(self._write, inputs, found)
        self.events.write("forecast", unit=unit.key, seconds=round(seconds, 3))

    def _forecast(self, inputs: UnitInputs) -> Slices | PatientOutcome:
        unit, settings = inputs.unit, self.reader.settings
        with self.stopping.unit_in_hand():
            work = partial(forecast_unit, unit, inputs.slices, inputs.targets, self.engine, settings)
            return attempt(unit.patient_id, work)

    def _write(self, inputs: UnitInputs, found: Slices) -> None:
        unit = inputs.unit
        write_shard(self.ledger.shard(unit), self.ledger.key(unit), inputs.patient, found)

    def _finish_writing(self) -> None:
        """Wait until the unit before this one is written. Raises StorageError if it could not be."""
        if self._writing is None:
            return
        (unit, written), self._writing = self._writing, None
        written.result()
        self._done += 1
        self.events.write("written", unit=unit.key)

    def _news(self, *, last: bool = False) -> News:
        """What was done since the last time."""
        stopping = self.stopping.requested
        told = News(self._done, self._failed, round(1000 * self._longest), stopping=stopping, last=last)
        self._done = self._failed = 0
        return told
