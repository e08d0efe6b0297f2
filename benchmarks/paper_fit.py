"""The fit of arXiv 2509.09610 as its authors publish it: the baseline of growth_fit.py. lmfit `leastsq` over `odeint`.

Written by us from the paper and from a reading of the authors' public code, whose choices are kept, faults included:
the start values, of which S lies outside its own bounds (lmfit moves it onto the lower one, where the gradient of its
transform is zero, so that S mostly stays at 0.001); residuals squared before leastsq, so that Σ r⁴ is minimised; one
start; the tolerances and guards; noise that only shrinks.
Ours are: bounds as the paper's text has them (the code widens them by 10 %); residuals padded with zeros to six,
because leastsq refuses fewer residuals than parameters (there the authors' code gives up); the best trial where the
search stops at its limit (lmfit hands out the last); and the variants, plain least squares and a lean derivative.
On the training rows of dmg_pid1.csv, 200 replicates: Σ r² median 0.41 and mean 1.7; day 366 median 4460 mm² (the truth
is 1550); 3 to 4 fits/s in one process.

Parameters, in order: λ, λ_decay (per day), delay (days), slope (per day), S, A0 (sizes / first size).
"""

import math
import warnings
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import lmfit
import numpy as np
import numpy.typing as npt
from scipy.integrate import odeint

Array = npt.NDArray[np.float64]
State = Array  # (2,) living and dying cells, in the unit of A0
Rates = tuple[float, ...]  # λ, λ_decay, delay, slope
Derivative = Callable[[State, float, Rates, float], list[float]]

NAMES = ("rate", "decay_rate", "delay", "slope", "survival", "initial_size")
LOWER = (0.001, 0.001, 0.001, 0.001, 0.001)
UPPER = (2.0, 100.0, 300.0, 600.0, 0.2)
START = (0.02, 0.02, 5.0, 1.0, 0.0001)
INITIAL_SIZE_SPREAD = 0.1  # A0 lies within 10 % of the first size that is fitted, and starts there
ODE_TOLERANCE = {"rtol": 1e-4, "atol": 1e-6, "mxstep": 50_000}
SEARCH = {"max_nfev": 10_000, "xtol": 1e-8, "ftol": 1e-8, "gtol": 1e-8}
LARGEST_RESIDUAL = 1e6
LEAST_NOISE, LEAST_SIZE = 1e-3, 0.05


class PaperFit(NamedTuple):
    """parameters: (6,); sum_of_squares and sum_of_quartics: of observed minus odeint's sizes, over the first size."""

    parameters: Array
    sum_of_squares: float
    sum_of_quartics: float


def published_derivative(state: State, day: float, rates: Rates, rt_start_day: float) -> list[float]:
    """d/dt of (living, dying) cells, with the guards of the authors' code, which take half of the time."""
    living, dying = state
    rate, decay_rate, delay, slope = rates
    change = -decay_rate * np.tanh(slope * (day - delay - rt_start_day))
    if abs(change) < 1e-10 or abs(dying) < 1e-10:
        return [rate * living, 0.0]
    return [rate * living, np.clip(change * dying, -1e10, 1e10)]


def lean_derivative(state: State, day: float, rates: Rates, rt_start_day: float) -> list[float]:
    """The same without guards, as quick as a Python function for odeint gets."""
    living, dying = state
    rate, decay_rate, delay, slope = rates
    return [rate * living, -decay_rate * math.tanh(slope * (day - delay - rt_start_day)) * dying]


def odeint_sizes(
    parameters: Array,
    days: Array,
    rt_start_day: float,
    *,
    derivative: Derivative = published_derivative,
    **tolerance: float,
) -> Array:
    """Tumour size on each of days: (T,), increasing, by odeint. Returns (T,) in the unit of A0.

    As in the authors' code, integration starts on the first day, or on rt_start_day where that is earlier: a patient
    first scanned after radiotherapy began has A0 as the size on rt_start_day, and it is that which the bounds hold near
    the first measured size. A course after the last day (or at infinity: none) has no effect.
    tolerance: odeint's options in place of ODE_TOLERANCE.
    >>> odeint_sizes(np.array([0.01, 1.0, 1.0, 1.0, 0.1, 2.0]), np.array([0.0, 100.0]), np.inf).round(3)
    array([2.   , 5.437])
    """
    *rates, survival, initial_size = (float(value) for value in parameters)

    def solve(state: list[float], times: Array) -> Array:
        options: dict[str, Any] = ODE_TOLERANCE | tolerance
        found: Array = odeint(derivative, state, times, args=(tuple(rates), rt_start_day), **options)
        return found

    before, after = days[days <= rt_start_day], days[days > rt_start_day]
    if after.size == 0:
        return np.asarray(solve([initial_size, 0.0], before).sum(axis=1))
    untreated = solve([initial_size, 0.0], np.append(before, rt_start_day))
    living = untreated[-1, 0]
    treated = solve([survival * living, (1 - survival) * living], np.concatenate([[rt_start_day], after]))
    return np.asarray(np.concatenate([untreated[:-1], treated[1:]]).sum(axis=1))


def fit(
    days: Array,
    relative_sizes: Array,
    rt_start_day: float,
    *,
    quartic: bool = True,
    derivative: Derivative = published_derivative,
    start: tuple[float, ...] = START,
) -> PaperFit:
    """One fit from one start. days, relative_sizes: (T,); the first size is positive.

    quartic: squares the residuals before leastsq squares them, as published; else the plain least squares.
    """

    tried: list[tuple[float, Array]] = []

    def residuals(trial: lmfit.Parameters) -> Array:
        row = row_of(trial)
        raw = np.nan_to_num(relative_sizes - odeint_sizes(row, days, rt_start_day, derivative=derivative), nan=np.inf)
        found = np.clip(raw, -LARGEST_RESIDUAL, LARGEST_RESIDUAL) ** (2 if quartic else 1)
        tried.append((float(np.sum(found**2)), row))
        return np.pad(found, (0, max(0, len(NAMES) - found.size)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odeint and lmfit warn of each overflow that the search walks into
        lmfit.minimize(residuals, search_space(float(relative_sizes[0]), start), method="leastsq", **SEARCH)
        _, best = min(tried, key=itemgetter(0))
        return scored(best, days, relative_sizes, rt_start_day, derivative=derivative)


def scored(parameters: Array, days: Array, relative_sizes: Array, rt_start_day: float, **options: Any) -> PaperFit:
    """The parameters: (6,), with both losses of their odeint curve. options: of odeint_sizes."""
    squares = (relative_sizes - odeint_sizes(parameters, days, rt_start_day, **options)) ** 2
    return PaperFit(parameters, float(squares.sum()), float((squares**2).sum()))


def search_space(first_size: float, start: tuple[float, ...] = START) -> lmfit.Parameters:
    """The bounded parameters at their start; A0 lies around first_size."""
    space = lmfit.Parameters()
    for name, value, lower, upper in zip(NAMES, start, LOWER, UPPER, strict=False):
        space.add(name, value=value, min=lower, max=upper)
    margin = INITIAL_SIZE_SPREAD * first_size
    space.add(NAMES[-1], value=first_size, min=first_size - margin, max=first_size + margin)
    return space


def row_of(parameters: lmfit.Parameters) -> Array:
    """(6,) the values in the order of NAMES."""
    return np.array([parameters[name].value for name in NAMES])


def paper_replicates(relative_sizes: Array, replicates: int, *, seed: int = 0, noise: float = 0.1) -> Array:
    """(replicates, T) bootstrap: each size times N(1, noise) clipped at 1, as published, so that sizes only shrink."""
    rng = np.random.default_rng(seed)
    factors = np.clip(rng.normal(1.0, noise, (replicates, relative_sizes.size)), LEAST_NOISE, 1.0)
    return np.maximum(relative_sizes * factors, LEAST_SIZE)
