"""The paper's fit and ours on the same bootstrap replicates, side by side in one run; prints JSON.

Patients: dmg_pid1.csv (training rows) and 20 of mu_glioma_post (enhancing_oedema_mm3), sizes over the first one. The
peers (paper_fit.py) run in 2 processes on a few replicates, ours in 2 threads on the same ones and on many more for
its rate, with the quick search and with the thorough one (on a tenth as many). Rates are medians over repeats in which
all take turns. Shares are of replicates on which our loss is lower or
equal in the same loss: Σ r⁴ where we minimise Σ r⁴ as the paper does, Σ r² where we minimise that. A peer is judged at
its parameters on a curve that odeint solves to 1e-10, and (`as_searched`) on the one that its own search saw, whose
tolerance of 1e-4 moves the loss by some 0.1 % either way, so that there no exact minimum is safe from it.

    OMP_NUM_THREADS=2 benchmarks/growth_fit.py ../shared/data --replicates 20 --many 20000 --out growth_fit.json
"""

import argparse
import csv
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from growth_search import fit_replicates
from machine import describe
from paper_fit import PaperFit, fit, lean_derivative, paper_replicates, published_derivative, scored

from tumorcast.growth.bootstrap import Noise
from tumorcast.growth.laws import BoundsPreset
from tumorcast.growth.settings import FitSettings
from tumorcast.records import RadiotherapyCourse, SizeSeries, Treatment

Array = npt.NDArray[np.float64]

DMG, GLIOMA = "dmg_pid1", "mu_glioma_post"
SIZE_COLUMN = "enhancing_oedema_mm3"
WANTED_SCANS, LEAST_SCANS = 4, 3
WORKERS = 2
RELATIVE_TOLERANCE = 1e-6
# Below these a fit interpolates: residuals of 0.003 % of the first size, for six scans.
ABSOLUTE_TOLERANCE = {"squares": 5e-9, "quartics": 5e-18}
EXACT = {"rtol": 1e-10, "atol": 1e-12}

PEERS: dict[str, Callable[..., PaperFit]] = {
    "published": partial(fit, quartic=True, derivative=published_derivative),
    "lean": partial(fit, quartic=True, derivative=lean_derivative),
    "plain_squares": partial(fit, quartic=False, derivative=published_derivative),
}


class Effort(StrEnum):
    """How we search: as `tumorcast fit --search` names it."""

    QUICK = "quick"
    THOROUGH = "thorough"


class Loss(StrEnum):
    """What a fit minimises, over sizes / first size."""

    SQUARES = "squares"
    QUARTICS = "quartics"


@dataclass(frozen=True)
class Case:
    """One patient. days, sizes: (T,), sizes over the first; replicates: (R, T) likewise."""

    data_set: str
    patient_id: str
    days: Array
    sizes: Array
    rt_start_day: float
    replicates: Array


class Timed(NamedTuple):
    """What was found for each case, and the seconds that each case took."""

    found: list[Any]
    seconds: Array


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def case_of(data_set: str, rows: Sequence[dict[str, str]], column: str, replicates: int) -> Case:
    """A patient's case from their rows."""
    days = np.array([float(row["day"]) for row in rows])
    sizes = np.array([float(row[column]) for row in rows])
    sizes = sizes[np.argsort(days)]
    relative = sizes / sizes[0]
    start = float(rows[0]["rt_start_day"] or "inf")
    return Case(data_set, rows[0]["patient_id"], np.sort(days), relative, start, paper_replicates(relative, replicates))


def dmg_case(data: Path, replicates: int) -> Case:
    """The paper's patient without the held-out scan."""
    rows = [row for row in read_rows(data / "dmg_pid1.csv") if row["role"] == "train"]
    return case_of(DMG, rows, "area_mm2", replicates)


def glioma_cases(data: Path, patients: int, replicates: int) -> list[Case]:
    """The first patients with at least WANTED_SCANS, then those with at least LEAST_SCANS, in the file's order."""
    by_patient: dict[str, list[dict[str, str]]] = {}
    for row in read_rows(data / "mu_glioma_post" / "volumes.csv"):
        if row[SIZE_COLUMN]:
            by_patient.setdefault(row["patient_id"], []).append(row)
    usable = [rows for rows in by_patient.values() if len(rows) >= LEAST_SCANS]
    ordered = sorted(usable, key=lambda rows: len(rows) < WANTED_SCANS)
    return [case_of(GLIOMA, rows, SIZE_COLUMN, replicates) for rows in ordered[:patients]]


def ours(case: Case, observed: Array, loss: Loss, effort: Effort) -> Array:
    """Our losses: (B,) of observed: (B, T), minimised and told in `loss`, over the paper's bounds and model.

    The peer's model and bounds are: A0 as the size on min(first day, rt_start_day), within 10 % of the replicate's own
    first size.
    """
    course = (RadiotherapyCourse(case.rt_start_day, case.rt_start_day + 42.0),) if case.rt_start_day < np.inf else ()
    series = SizeSeries(case.patient_id, "relative_size", case.days, case.sizes, Treatment(course))
    noise = Noise.ADDITIVE if loss is Loss.SQUARES else Noise.PAPER
    settings = FitSettings(bounds=BoundsPreset.PAPER, noise=noise, drop_ratio=None)
    first = observed[:, 0]
    settings = settings.quick if effort is Effort.QUICK else settings
    fits = fit_replicates(series, observed / first[:, None], settings)
    return fits.losses * first ** (2 if loss is Loss.SQUARES else 4)


def peer_task(name: str, days: Array, observed: Array, rt_start_day: float) -> tuple[PaperFit, float]:
    """One fit of a peer and its seconds, as a worker process runs it."""
    begin = time.perf_counter()
    found = PEERS[name](days, observed, rt_start_day)
    return found, time.perf_counter() - begin


def time_peer(pool: Pool, name: str, cases: Sequence[Case]) -> Timed:
    """A peer's fits of every replicate.

    The seconds of a case are those that its fits took, shared among the workers: idle ends are not held against a peer.
    """
    tasks = [(name, case.days, observed, case.rt_start_day) for case in cases for observed in case.replicates]
    done = pool.starmap(peer_task, tasks, chunksize=1)
    found, seconds = [], []
    for case in cases:
        of_case, done = done[: len(case.replicates)], done[len(case.replicates) :]
        found.append([one for one, _ in of_case])
        seconds.append(sum(took for _, took in of_case) / WORKERS)
    return Timed(found, np.array(seconds))


def time_ours(cases: Sequence[Case], observed: Sequence[Array], loss: Loss, effort: Effort) -> Timed:
    """Our losses of each case's observed: (B, T)."""
    found, seconds = [], []
    for case, batch in zip(cases, observed, strict=True):
        begin = time.perf_counter()
        found.append(ours(case, batch, loss, effort))
        seconds.append(time.perf_counter() - begin)
    return Timed(found, np.array(seconds))


def groups(cases: Sequence[Case]) -> dict[str, list[int]]:
    """The places of the cases of each data set, and of all."""
    places = {name: [i for i, case in enumerate(cases) if case.data_set == name] for name in (DMG, GLIOMA)}
    return {"all": list(range(len(cases))), **places}


def rates(cases: Sequence[Case], repeats: Sequence[Timed], fits_a_case: int) -> dict[str, float]:
    """Fits per second by group, the median over repeats."""
    return {
        name: median(len(places) * fits_a_case / float(one.seconds[places].sum()) for one in repeats)
        for name, places in groups(cases).items()
        if places
    }


def peer_losses(cases: Sequence[Case], fits: Sequence[Sequence[PaperFit]], loss: Loss, *, exact: bool) -> list[Array]:
    """A peer's losses, (R,) a case."""
    return [
        np.array([loss_of(_exactly(case, i, one) if exact else one, loss) for i, one in enumerate(of_case)])
        for case, of_case in zip(cases, fits, strict=True)
    ]


def _exactly(case: Case, replicate: int, found: PaperFit) -> PaperFit:
    observed = case.replicates[replicate]
    return scored(found.parameters, case.days, observed, case.rt_start_day, derivative=lean_derivative, **EXACT)


def loss_of(found: PaperFit, loss: Loss) -> float:
    """A peer's loss."""
    return found.sum_of_squares if loss is Loss.SQUARES else found.sum_of_quartics


def shares(cases: Sequence[Case], mine: Sequence[Array], theirs: Sequence[Array], loss: Loss) -> dict[str, float]:
    """By group, the share of replicates on which our loss is lower or equal."""
    good = [
        one <= other * (1 + RELATIVE_TOLERANCE) + ABSOLUTE_TOLERANCE[loss]
        for one, other in zip(mine, theirs, strict=True)
    ]
    return {
        name: float(np.mean(np.concatenate([good[i] for i in places])))
        for name, places in groups(cases).items()
        if places
    }


def compare(cases: Sequence[Case], peers: dict[str, Timed], mine: dict[Loss, Timed]) -> dict[str, Any]:
    """The shares against each peer, in each loss."""
    return {
        name: {
            f"{loss}{'' if exact else '_as_searched'}": shares(
                cases, mine[loss].found, peer_losses(cases, peer.found, loss, exact=exact), loss
            )
            for loss in Loss
            for exact in (True, False)
        }
        for name, peer in peers.items()
    }


def benchmark(cases: Sequence[Case], *, many: int, repeats: int) -> dict[str, Any]:
    """All timings and shares."""
    replicates = len(cases[0].replicates)
    plenty = {
        Effort.QUICK: [paper_replicates(case.sizes, many, seed=1) for case in cases],
        Effort.THOROUGH: [paper_replicates(case.sizes, many // 10, seed=1) for case in cases],
    }
    few = [case.replicates for case in cases]
    mine = {(effort, loss): time_ours(cases, few, loss, effort) for effort in Effort for loss in Loss}  # compiles, too
    timed: dict[str, list[Timed]] = {name: [] for name in PEERS}
    timed |= {f"{effort}_{loss}": [] for effort in Effort for loss in Loss}
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.map(abs, range(WORKERS))  # the processes have started and imported before the clock does
        for _ in range(repeats):
            for name in PEERS:
                timed[name].append(time_peer(pool, name, cases))
            for effort in Effort:
                for loss in Loss:
                    timed[f"{effort}_{loss}"].append(time_ours(cases, plenty[effort], loss, effort))
    counts = dict.fromkeys(PEERS, replicates) | {
        f"{effort}_{loss}": len(plenty[effort][0]) for effort in Effort for loss in Loss
    }
    speed = {name: rates(cases, timed[name], counts[name]) for name in timed}
    own = [name for name in timed if name not in PEERS]
    peers = {name: timed[name][-1] for name in PEERS}
    return {
        "fits_per_second": speed,
        "ratio": {peer: {name: over(speed[name], speed[peer]) for name in own} for peer in PEERS},
        "share_lower_or_equal": {
            effort: compare(cases, peers, {loss: mine[effort, loss] for loss in Loss}) for effort in Effort
        },
    }


def over(mine: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    """The ratio by group."""
    return {name: mine[name] / theirs[name] for name in mine}


def main() -> None:
    """Parse, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with dmg_pid1.csv and mu_glioma_post/volumes.csv")
    parser.add_argument("--patients", type=int, default=20, help="of mu_glioma_post")
    parser.add_argument("--replicates", type=int, default=20, help="of each patient, for all fits")
    parser.add_argument("--many", type=int, default=20_000, help="replicates of each patient, for our rate")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    machine = describe(threads=WORKERS)
    cases = [
        dmg_case(options.data, options.replicates),
        *glioma_cases(options.data, options.patients, options.replicates),
    ]
    settings = {name: getattr(options, name) for name in ("patients", "replicates", "many", "repeats")}
    figures = benchmark(cases, many=options.many, repeats=options.repeats)
    text = json.dumps({"machine": machine, "settings": settings, **figures}, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
