"""What looks at a run beside its steps: the log, the loss on held-out patients, sample sheets, early warnings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tumorcast.training.checkpoint import TrainingState
from tumorcast.training.job import Job
from tumorcast.training.log import Row, RunLog, opened_log
from tumorcast.training.pools import Pool
from tumorcast.training.sheets import draw_sheet, sheet
from tumorcast.training.validation import Validation
from tumorcast.training.watch import Watch

SHEETS = "sheets"
logger = logging.getLogger(__name__)


class Observer:
    """Of the one process that writes. `pool`: of the patients held out; without it there is nothing to look at."""

    def __init__(self, job: Job, log: RunLog, pool: Pool | None) -> None:
        """Use `observing`."""
        self.log = log
        self._job, self._pool = job, pool
        self._watch = Watch(job.settings.warmup_steps)
        for row in log.rows:
            self._watch.look(row)

    def tell(self, row: Row) -> None:
        """Log a row, and what is alarming in it."""
        self.log.write(row)
        warning = self._watch.look(row)
        if warning is not None:
            self.log.write({"step": row["step"], "warning": warning})
            logger.warning("%s: step %d: %s", self._job.out, row["step"], warning)

    def looks_after(self, step: int) -> bool:
        """Whether `look` has something to do after this step."""
        return self._validates_after(step) or self._draws_after(step)

    def look(self, state: TrainingState) -> None:
        """Validate, and draw a sheet, where it is time to."""
        if self._pool is None or not self.looks_after(state.step):
            return
        with state.averaged() as module, torch.compiler.set_stance("force_eager"):  # other shapes than a step's
            if self._validates_after(state.step):
                self.tell({"step": state.step, "validation": Validation(self._job, self._pool).losses(module)})
            columns = sheet(self._job, module, self._pool) if self._draws_after(state.step) else []
        if columns:
            draw_sheet(columns, self._job.out / SHEETS / f"{state.step:06d}.png", f"step {state.step}")

    def _validates_after(self, step: int) -> bool:
        return self._pool is not None and step % self._job.settings.validate_every == 0

    def _draws_after(self, step: int) -> bool:
        every = self._job.settings.sheet_every
        return self._pool is not None and every > 0 and step % every == 0


@contextmanager
def observing(job: Job, state: TrainingState, pool: Pool | None) -> Iterator[Observer | None]:
    """An observer of the run, which stands where `state` does; None in a process that does not lead."""
    if not job.team.leads:
        yield None
        return
    with opened_log(job.out, state.step) as log:
        yield Observer(job, log, pool)
