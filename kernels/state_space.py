"""Filter and forecast of one patient's log sizes under many kinds of state-space model at once.

A kind k = (r, s_u, τ_u, s_g, τ_g, λ, law): noise and departures of log sizes, their growth rate and its spread, how
often sizes are drawn anew, and which curve of a growth law they follow, if any. Of y = log(v + offset), days in t:

    level      b' = m + φ_b (b - m) + F_bg g + shift (1 - exp(-Δt / 60 d)) + ΔΛ   Λ: the law's log growth
    rate       g: Ornstein-Uhlenbeck, sd s_g per 100 d, time τ_g; for a law F_bg = ∂ΔΛ/∂rate, and g is constant
    departure  u: Ornstein-Uhlenbeck, sd s_u, time τ_u
    measured   y = b + f u + ε,   ε ~ N(0, f² r² + s0² exp(-2 (E y - log offset))),   f = exp(-c (y_last - m))
    redraw     with a chance of 1 - exp(-λ Δt), more after the first scan:   b → m + ρ (b - m) + N(0, (f J)²)
    operation  that is known:   b → m + o + ρ_o (b - m) + N(0, J_o²)
    outlier    ε has the sd O more, with a chance
    nothing seen   y* ≤ log offset, a censored size; so is what is below 10 mm³

(b, u, g) is a Kalman filter; redraw and outlier make a sum of normals, of which the heaviest PARTS - 1 are kept and the
others are merged into one. `Scans` holds what is known of a patient, `shared` the parameters that all kinds share.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.kernels.compiling import compiled, compiled_inner

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NOISE, DEPARTURE, DEPARTURE_DAYS, RATE, RATE_DAYS, REDRAWS, LAW = range(7)  # columns of kinds
(
    CENTRE,
    SPREAD,
    FIRST_SHIFT,
    SHIFT,
    FIRST_REDRAW,
    RETURN_DAYS,
    BY_SIZE,
    SMALL_NOISE,
    BY_COMPANION,
    OPERATION_SHIFT,
    OPERATION_KEPT,
    OPERATION_SD,
    SCAN_REDRAW,
) = range(13)  # of shared
PARTS = 4
REDRAW_SD, REDRAW_KEPT, OUTLIER_SD, OUTLIER_CHANCE = 1.5, 0.6, 1.5, 0.05
SHIFT_DAYS = 60.0
NOTHING = 0.095  # y above the floor of 10 mm³, the least that two outlines of a scan would both see
SCAN_DAYS = 10.0
FARTHEST_BY_SIZE = 2.5
YEAR_DAYS = 365.25
# Bins in which normals are merged: of standard deviations by their logarithm, of means in parts of those.
SMALLEST_SD, LOG_SD_STEP, SD_BINS, MEAN_STEP = 0.01, 0.1, 70, 0.25
LOWEST_MEAN, HIGHEST_MEAN, LEAST_PART = -30.0, 60.0, 1e-7
HALVINGS = 20
LOG_2PI = math.log(2.0 * math.pi)
# Columns of a part of the sum: log weight, mean of b, u, g, covariance bb, bu, bg, uu, ug, gg.
WEIGHT, B, U, G, BB, BU, BG, UU, UG, GG = range(10)
COLUMNS = 10


class Scans(NamedTuple):
    """One patient's scans and what is known between and after them.

    days: (T + H,) of the scans, and of those that are forecast; log_sizes: (T,) y, of which the least that can be is
    `floor`; excess: (T,) of the companion; operation: (T + H,) day of the last operation between the scan before (the
    last one, for a forecast) and that day, infinite where there is none; growth, by_rate: (L, T + H) Λ of each curve of
    a law, and ∂Λ/∂rate; growth_then, by_rate_then: the same on the days of the operations.
    """

    days: Array
    log_sizes: Array
    excess: Array
    operation: Array
    growth: Array
    by_rate: Array
    growth_then: Array
    by_rate_then: Array
    floor: float


@compiled_inner
def log_chance_below(z: float) -> float:
    """Log of the normal distribution function."""
    if z > -6.0:
        return math.log(0.5 * math.erfc(-z / math.sqrt(2.0)))
    square = z * z  # its asymptotic series
    return -0.5 * square - math.log(-z) - 0.5 * LOG_2PI + math.log1p(-1.0 / square + 3.0 / (square * square))


@compiled_inner
def move(
    part: Array, out: Array, kind: Array, shared: Array, days: float, law: tuple[float, float], add: float
) -> None:
    """The part `days` later, without a redraw; `out` may be the part itself.

    law: ΔΛ and ∂ΔΛ/∂rate; add: what is added to the level.
    """
    if kind[LAW] >= 0:
        keep, through, rate_keep = 1.0, law[1], 1.0
        bb, bg, gg = 0.0, 0.0, 0.0
    else:
        kappa, gamma = 1.0 / shared[RETURN_DAYS], 1.0 / kind[RATE_DAYS]
        if abs(kappa - gamma) < 1e-3 * gamma:
            kappa = gamma * 1.001
        keep, rate_keep = math.exp(-kappa * days), math.exp(-gamma * days)
        apart = kappa - gamma
        through = (rate_keep - keep) / apart
        strength = 2.0 * gamma * (kind[RATE] / 100.0) ** 2  # of the noise that drives the rate
        two_g, two_b, both = (
            -math.expm1(-2.0 * gamma * days),
            -math.expm1(-2.0 * kappa * days),
            -math.expm1(-(kappa + gamma) * days),
        )
        gg = strength * two_g / (2.0 * gamma)
        bg = strength * (two_g / (2.0 * gamma) - both / (kappa + gamma)) / apart
        bb = strength * (two_g / (2.0 * gamma) - 2.0 * both / (kappa + gamma) + two_b / (2.0 * kappa)) / apart**2
    left = math.exp(-days / kind[DEPARTURE_DAYS])
    out[WEIGHT] = part[WEIGHT]
    out[B] = shared[CENTRE] + keep * (part[B] - shared[CENTRE]) + through * part[G] + add + law[0]
    out[U] = left * part[U]
    out[G] = rate_keep * part[G]
    out[BB] = keep * keep * part[BB] + 2.0 * keep * through * part[BG] + through * through * part[GG] + max(bb, 0.0)
    out[BU] = left * (keep * part[BU] + through * part[UG])
    out[BG] = rate_keep * (keep * part[BG] + through * part[GG]) + bg
    out[UU] = left * left * part[UU] + kind[DEPARTURE] ** 2 * (1.0 - left * left)
    out[UG] = left * rate_keep * part[UG]
    out[GG] = rate_keep * rate_keep * part[GG] + gg


@compiled_inner
def redraw(part: Array, out: Array, mean: float, kept: float, sd: float, log_chance: float) -> None:
    """The part with its level drawn anew: mean + kept (b - mean), with an sd."""
    for column in range(COLUMNS):
        out[column] = part[column]
    out[WEIGHT] += log_chance
    out[B] = mean + kept * part[B]
    out[BB] = kept * kept * part[BB] + sd * sd
    out[BU] = kept * part[BU]
    out[BG] = kept * part[BG]


@compiled_inner
def predicted(part: Array, kind: Array, shared: Array, scale: float, floor: float) -> tuple[float, float, float]:
    """Mean of y, variance of b + f u, and of ε."""
    mean = part[B] + scale * part[U]
    variance = part[BB] + 2.0 * scale * part[BU] + scale * scale * part[UU]
    small = shared[SMALL_NOISE] * math.exp(-max(mean - floor, 0.0))
    return mean, variance, (scale * kind[NOISE]) ** 2 + small * small


@compiled_inner
def observe(part: Array, out: Array, y: float, seen: tuple[float, float, float], scale: float, floor: float) -> None:
    """The part given y; its weight takes the density of y, or where nothing was seen the chance of that.

    seen: mean of y, variance of b + f u, and of ε.
    """
    mean, variance, noise = seen
    total = variance + noise
    sd = math.sqrt(total)
    z = (y - mean) / sd
    if y > floor + NOTHING:
        log_density = -0.5 * z * z - math.log(sd) - 0.5 * LOG_2PI
        shift, shrink = (y - mean) / total, 1.0 / total
    else:
        z = (floor - mean) / sd
        log_density = log_chance_below(z)
        hazard = math.exp(-0.5 * z * z - 0.5 * LOG_2PI - log_density)
        shift, shrink = -hazard / sd, hazard * (hazard + z) / total
    gain_b = part[BB] + scale * part[BU]
    gain_u = part[BU] + scale * part[UU]
    gain_g = part[BG] + scale * part[UG]
    out[WEIGHT] = part[WEIGHT] + log_density
    out[B] = part[B] + gain_b * shift
    out[U] = part[U] + gain_u * shift
    out[G] = part[G] + gain_g * shift
    out[BB] = part[BB] - gain_b * gain_b * shrink
    out[BU] = part[BU] - gain_b * gain_u * shrink
    out[BG] = part[BG] - gain_b * gain_g * shrink
    out[UU] = part[UU] - gain_u * gain_u * shrink
    out[UG] = part[UG] - gain_u * gain_g * shrink
    out[GG] = part[GG] - gain_g * gain_g * shrink


@compiled_inner
def reduce_parts(parts: Array, count: int) -> int:
    """The heaviest PARTS - 1 of parts: (≥ count, COLUMNS) first, then the others merged into one. Returns how many."""
    for place in range(min(PARTS - 1, count)):
        heaviest = place
        for other in range(place + 1, count):
            if parts[other, WEIGHT] > parts[heaviest, WEIGHT]:
                heaviest = other
        if heaviest != place:
            for column in range(COLUMNS):
                parts[place, column], parts[heaviest, column] = parts[heaviest, column], parts[place, column]
    if count < PARTS:
        return count
    first = PARTS - 1
    peak = -math.inf
    for other in range(first, count):
        peak = max(peak, parts[other, WEIGHT])
    if peak < parts[0, WEIGHT] - 40.0:
        return first
    total = 0.0
    mean = (0.0, 0.0, 0.0)
    for other in range(first, count):
        weight = math.exp(parts[other, WEIGHT] - peak)
        total += weight
        mean = (
            mean[0] + weight * parts[other, B],
            mean[1] + weight * parts[other, U],
            mean[2] + weight * parts[other, G],
        )
    b, u, g = mean[0] / total, mean[1] / total, mean[2] / total
    bb, bu, bg, uu, ug, gg = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for other in range(first, count):
        share = math.exp(parts[other, WEIGHT] - peak) / total
        db, du, dg = parts[other, B] - b, parts[other, U] - u, parts[other, G] - g
        bb += share * (parts[other, BB] + db * db)
        bu += share * (parts[other, BU] + db * du)
        bg += share * (parts[other, BG] + db * dg)
        uu += share * (parts[other, UU] + du * du)
        ug += share * (parts[other, UG] + du * dg)
        gg += share * (parts[other, GG] + dg * dg)
    merged = parts[first]
    merged[WEIGHT] = peak + math.log(total)
    merged[B], merged[U], merged[G] = b, u, g
    merged[BB], merged[BU], merged[BG], merged[UU], merged[UG], merged[GG] = bb, bu, bg, uu, ug, gg
    return PARTS


@compiled_inner
def log_sum(parts: Array, count: int) -> float:
    """Log of the sum of the weights."""
    peak = -math.inf
    for part in range(count):
        peak = max(peak, parts[part, WEIGHT])
    total = 0.0
    for part in range(count):
        total += math.exp(parts[part, WEIGHT] - peak)
    return peak + math.log(total)


@compiled_inner
def scale_by_size(shared: Array, last: float) -> float:
    """f, by the last y."""
    beyond = min(max(last - shared[CENTRE], -FARTHEST_BY_SIZE), FARTHEST_BY_SIZE)
    return math.exp(-shared[BY_SIZE] * beyond)


@compiled_inner
def chance_of_staying(kind: Array, shared: Array, days: float, fresh: bool) -> float:
    """That the level is not drawn anew within `days` of a scan."""
    stays = math.exp(-kind[REDRAWS] * days / YEAR_DAYS)
    if kind[LAW] >= 0:
        return stays
    stays *= 1.0 + shared[SCAN_REDRAW] * math.expm1(-days / SCAN_DAYS)
    if fresh:
        stays *= 1.0 + shared[FIRST_REDRAW] * math.expm1(-days / SHIFT_DAYS)
    return float(stays)


@compiled_inner
def operate(parts: Array, count: int, out: Array, kind: Array, shared: Array, scans: Scans, last: int, to: int) -> None:
    """The parts moved to the day of an operation, drawn anew there, and moved on to the day of index `to`.

    After it the level moves as after a first scan.
    """
    before, after = scans.operation[to] - scans.days[last], scans.days[to] - scans.operation[to]
    add, law_before, law_after = 0.0, (0.0, 0.0), (0.0, 0.0)
    if kind[LAW] >= 0:
        curve = int(kind[LAW])
        growth, by_rate = scans.growth_then[curve, to], scans.by_rate_then[curve, to]
        law_before = (growth - scans.growth[curve, last], by_rate - scans.by_rate[curve, last])
        law_after = (scans.growth[curve, to] - growth, scans.by_rate[curve, to] - by_rate)
    else:
        add = -(shared[SHIFT] + shared[FIRST_SHIFT]) * math.expm1(-after / SHIFT_DAYS)
    kept = shared[OPERATION_KEPT]
    mean = shared[CENTRE] + shared[OPERATION_SHIFT] - kept * shared[CENTRE]
    for part in range(count):
        move(parts[part], out[part], kind, shared, before, law_before, 0.0)
        redraw(out[part], out[part], mean, kept, shared[OPERATION_SD], 0.0)
        move(out[part], out[part], kind, shared, after, law_after, add)


@compiled_inner
def advance(
    parts: Array, count: int, out: Array, kind: Array, shared: Array, scans: Scans, last: int, to: int, scale: float
) -> int:
    """The parts on the day of index `last` brought to that of index `to`, into out: (2 · count, COLUMNS).

    Returns how many. What is added to the level and the chance of a redraw grow with the time since the last scan, so
    that days between scans change nothing.
    """
    if scans.operation[to] < math.inf:
        operate(parts, count, out, kind, shared, scans, last, to)
        return count
    origin = min(last, scans.log_sizes.size - 1)
    gone, days = scans.days[last] - scans.days[origin], scans.days[to] - scans.days[last]
    fresh = origin == 0 or scans.operation[origin] < math.inf  # the first scan, or the first after an operation
    add, law = 0.0, (0.0, 0.0)
    if kind[LAW] >= 0:
        curve = int(kind[LAW])
        growth, by_rate = scans.growth[curve], scans.by_rate[curve]
        law = (growth[to] - growth[last], by_rate[to] - by_rate[last])
    else:
        add = shared[SHIFT] + shared[BY_COMPANION] * scans.excess[origin] + (shared[FIRST_SHIFT] if fresh else 0.0)
        add *= math.exp(-gone / SHIFT_DAYS) - math.exp(-(gone + days) / SHIFT_DAYS)
    stays = chance_of_staying(kind, shared, gone + days, fresh) / chance_of_staying(kind, shared, gone, fresh)
    total = 0
    centre = shared[CENTRE]
    for part in range(count):
        moved = out[total]
        move(parts[part], moved, kind, shared, days, law, add)
        if stays < 1.0:
            mean = centre - REDRAW_KEPT * centre
            redraw(moved, out[total + 1], mean, REDRAW_KEPT, scale * REDRAW_SD, math.log1p(-stays))
            moved[WEIGHT] += math.log(stays)
            total += 1
        total += 1
    return total


@compiled_inner
def begin(part: Array, kind: Array, shared: Array) -> None:
    """What is known before the first scan."""
    clear_part(part)
    part[B] = shared[CENTRE]
    part[BB] = shared[SPREAD] ** 2
    part[UU] = kind[DEPARTURE] ** 2
    part[GG] = (kind[RATE] / 100.0) ** 2


@compiled_inner
def clear_part(part: Array) -> None:
    """All zero."""
    for column in range(COLUMNS):
        part[column] = 0.0


@compiled_inner
def filter_kind(kind: Array, shared: Array, scans: Scans, parts: Array, moved: Array, log_densities: Array) -> int:
    """Parts after the last scan, with weights that sum to one; log predictive density of each scan into
    log_densities: (T,).

    parts: (4 · PARTS, COLUMNS) and moved: (2 · PARTS, COLUMNS) are memory. Returns how many parts there are.
    """
    begin(moved[0], kind, shared)
    count, scale = 1, 1.0
    for scan in range(scans.log_sizes.size):
        if scan > 0:
            scale = scale_by_size(shared, scans.log_sizes[scan - 1])
            count = advance(parts, count, moved, kind, shared, scans, scan - 1, scan, scale)
        total = 0
        for part in range(count):
            mean, variance, noise = predicted(moved[part], kind, shared, scale, scans.floor)
            weight = moved[part, WEIGHT]
            moved[part, WEIGHT] = weight + math.log(1.0 - OUTLIER_CHANCE)
            observe(moved[part], parts[total], scans.log_sizes[scan], (mean, variance, noise), scale, scans.floor)
            moved[part, WEIGHT] = weight + math.log(OUTLIER_CHANCE)
            wide = (mean, variance, noise + (scale * OUTLIER_SD) ** 2)
            observe(moved[part], parts[total + 1], scans.log_sizes[scan], wide, scale, scans.floor)
            total += 2
        log_densities[scan] = log_sum(parts, total)
        count = reduce_parts(parts, total)
        for part in range(count):
            parts[part, WEIGHT] -= log_densities[scan]
    return count


@compiled
def fill_log_densities(kinds: Array, shared: Array, scans: Scans, log_densities: Array) -> None:
    """Log predictive density of each scan under each of kinds: (K, 7), into log_densities: (K, T)."""
    parts, moved = np.empty((4 * PARTS, COLUMNS)), np.empty((2 * PARTS, COLUMNS))
    for kind in range(kinds.shape[0]):
        filter_kind(kinds[kind], shared, scans, parts, moved, log_densities[kind])


@compiled
def forecast_parts(kinds: Array, weights: Array, shared: Array, scans: Scans, normals: Array, counts: Integers) -> None:
    """The forecast on the days after the last scan as normals: (H, N, 3), each weight, mean and sd.

    counts: (H,) becomes how many there are. weights: (K,) of the kinds given the scans; N ≥ 4 · PARTS · K.
    """
    parts, moved = np.empty((4 * PARTS, COLUMNS)), np.empty((2 * PARTS, COLUMNS))
    scanned = scans.log_sizes.size
    log_densities = np.empty(scanned)
    scale = scale_by_size(shared, scans.log_sizes[scanned - 1])
    counts[:] = 0
    for kind in range(kinds.shape[0]):
        count = filter_kind(kinds[kind], shared, scans, parts, moved, log_densities)
        for to in range(scanned, scans.days.size):
            there = advance(parts, count, moved, kinds[kind], shared, scans, scanned - 1, to, scale)
            rows = normals[to - scanned]
            for part in range(there):
                mean, variance, noise = predicted(moved[part], kinds[kind], shared, scale, scans.floor)
                weight = weights[kind] * math.exp(moved[part, WEIGHT])
                place = counts[to - scanned]
                rows[place, 0] = weight * (1.0 - OUTLIER_CHANCE)
                rows[place, 1] = mean
                rows[place, 2] = math.sqrt(variance + noise)
                rows[place + 1, 0] = weight * OUTLIER_CHANCE
                rows[place + 1, 1] = mean
                rows[place + 1, 2] = math.sqrt(variance + noise + (scale * OUTLIER_SD) ** 2)
                counts[to - scanned] += 2


class Numbers(NamedTuple):
    """Random numbers of B paths over H days and one step before: (B, H + 1, 4) normal, (B, H + 1, 2) uniform."""

    normal: Array
    uniform: Array


@compiled_inner
def draw_state(part: Array, normal: Array) -> None:
    """The part's state drawn with normal: (≥ 3,), put into its mean; its covariance becomes zero."""
    root_bb = math.sqrt(max(part[BB], 0.0))
    bu = part[BU] / root_bb if root_bb > 0.0 else 0.0
    bg = part[BG] / root_bb if root_bb > 0.0 else 0.0
    root_uu = math.sqrt(max(part[UU] - bu * bu, 0.0))
    ug = (part[UG] - bu * bg) / root_uu if root_uu > 1e-12 else 0.0
    root_gg = math.sqrt(max(part[GG] - bg * bg - ug * ug, 0.0))
    part[B] += root_bb * normal[0]
    part[U] += bu * normal[0] + root_uu * normal[1]
    part[G] += bg * normal[0] + ug * normal[1] + root_gg * normal[2]
    for column in range(BB, COLUMNS):
        part[column] = 0.0


@compiled_inner
def draw_part(parts: Array, count: int, uniform: float) -> int:
    """Which of the parts, whose weights sum to one."""
    for part in range(count - 1):
        uniform -= math.exp(parts[part, WEIGHT])
        if uniform < 0.0:
            return part
    return count - 1


@compiled
def fill_paths(kinds: Array, drawn: Integers, shared: Array, scans: Scans, numbers: Numbers, out: Array) -> None:
    """Courses of y on the days after the last scan, into out: (B, H), one after the other in time.

    drawn: (B,) not decreasing, the kind of each.
    """
    parts, moved, state = np.empty((4 * PARTS, COLUMNS)), np.empty((2 * PARTS, COLUMNS)), np.empty((1, COLUMNS))
    scanned = scans.log_sizes.size
    log_densities = np.empty(scanned)
    scale = scale_by_size(shared, scans.log_sizes[scanned - 1])
    count, before = 0, -1
    for path in range(drawn.size):
        kind = kinds[drawn[path]]
        if drawn[path] != before:
            count = filter_kind(kind, shared, scans, parts, moved, log_densities)
            before = drawn[path]
        normal, uniform = numbers.normal[path], numbers.uniform[path]
        state[0] = parts[draw_part(parts, count, uniform[0, 0])]
        state[0, WEIGHT] = 0.0
        draw_state(state[0], normal[0])
        for step in range(out.shape[1]):
            last = scanned - 1 + step
            there = advance(state, 1, moved, kind, shared, scans, last, last + 1, scale)
            chosen = draw_part(moved, there, uniform[step + 1, 0])
            state[0] = moved[chosen]
            draw_state(state[0], normal[step + 1])
            mean, _, noise = predicted(state[0], kind, shared, scale, scans.floor)
            if uniform[step + 1, 1] < OUTLIER_CHANCE:
                noise += (scale * OUTLIER_SD) ** 2
            out[path, step] = mean + math.sqrt(noise) * normal[step + 1, 3]
            state[0, WEIGHT] = 0.0


@compiled_inner
def bins_of(log_sd_bin: int) -> int:
    """How many bins of means there are for standard deviations of that bin."""
    return int((HIGHEST_MEAN - LOWEST_MEAN) / (MEAN_STEP * SMALLEST_SD * math.exp(LOG_SD_STEP * log_sd_bin))) + 1


@compiled
def condense(normals: Array, count: int) -> Array:
    """(N, 3) fewer normals with the same distribution but for a thousandth: those with like means and sds are merged.

    normals: (≥ count, 3) weights, means, sds. Each bin keeps its weight, mean and variance; weights sum to one.
    """
    offsets = np.zeros(SD_BINS + 1, dtype=np.int64)
    for place in range(SD_BINS):
        offsets[place + 1] = offsets[place] + bins_of(place)
    merged = np.zeros((offsets[SD_BINS], 3))
    for part in range(count):
        weight, mean, sd = normals[part, 0], normals[part, 1], normals[part, 2]
        if weight < LEAST_PART:
            continue
        place = min(max(int(math.log(sd / SMALLEST_SD) / LOG_SD_STEP), 0), SD_BINS - 1)
        width = MEAN_STEP * SMALLEST_SD * math.exp(LOG_SD_STEP * place)
        where = int((min(max(mean, LOWEST_MEAN), HIGHEST_MEAN) - LOWEST_MEAN) / width)
        row = merged[offsets[place] + where]
        row[0] += weight
        row[1] += weight * mean
        row[2] += weight * (mean * mean + sd * sd)
    kept, total = 0, 0.0
    for place in range(merged.shape[0]):
        if merged[place, 0] > 0.0:
            weight = merged[place, 0]
            mean = merged[place, 1] / weight
            merged[kept, 2] = math.sqrt(max(merged[place, 2] / weight - mean * mean, SMALLEST_SD**2))
            merged[kept, 1] = mean
            merged[kept, 0] = weight
            total += weight
            kept += 1
    for place in range(kept):
        merged[place, 0] /= total
    return merged[:kept].copy()


@compiled_inner
def chance_below(normals: Array, x: float) -> float:
    """Of the sum of normals."""
    chance = 0.0
    for part in range(normals.shape[0]):
        z = (x - normals[part, 1]) / normals[part, 2]
        if z > 5.0:
            chance += normals[part, 0]
        elif z > -5.0:
            chance += normals[part, 0] * 0.5 * math.erfc(-z / math.sqrt(2.0))
    return chance


@compiled
def fill_quantiles(normals: Array, levels: Array, grid: Array, out: Array) -> None:
    """Quantiles of the sum of normals: (N, 3) at levels: (Q,) increasing, into out: (Q,); grid: (M,) is memory.

    The distribution function is taken at M points between the outermost quantiles, and is linear between them.
    """
    low, high = math.inf, -math.inf
    for part in range(normals.shape[0]):
        low = min(low, normals[part, 1] - 5.0 * normals[part, 2])
        high = max(high, normals[part, 1] + 5.0 * normals[part, 2])
    ends = np.empty(2)
    for end in range(2):
        level = levels[0] if end == 0 else levels[-1]
        below, above = low, high
        for _ in range(HALVINGS):
            middle = 0.5 * (below + above)
            if chance_below(normals, middle) < level:
                below = middle
            else:
                above = middle
        ends[end] = below if end == 0 else above
    step = (ends[1] - ends[0]) / (grid.size - 1)
    for point in range(grid.size):
        grid[point] = chance_below(normals, ends[0] + step * point)
    point = 0
    for place in range(levels.size):
        while point < grid.size - 2 and grid[point + 1] < levels[place]:
            point += 1
        rise = grid[point + 1] - grid[point]
        share = (levels[place] - grid[point]) / rise if rise > 0.0 else 0.0
        out[place] = ends[0] + step * (point + min(max(share, 0.0), 1.0))
