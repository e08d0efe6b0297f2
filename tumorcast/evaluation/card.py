"""The comparison as a page of Markdown: goals first, reached or not, then the tables and how they were measured."""

from collections.abc import Iterable, Sequence
from typing import Any

from tumorcast.evaluation.comparison import TargetMode
from tumorcast.evaluation.judging import NEAR_MM, Figures
from tumorcast.evaluation.methods import Method
from tumorcast.evaluation.metrics import SSIM_WINDOW, TIE_DRAWS
from tumorcast.evaluation.paired import RESAMPLES, Difference, Estimate
from tumorcast.evaluation.summary import (
    LOWER_IS_BETTER,
    MethodSummary,
    forecast_rows,
    goals,
    growth_figures,
    image_figures,
    regressor_figures,
    summarise,
)

Columns = dict[str, tuple[str, int]]  # of a figure's name: head of its column, and digits

COLUMNS: Columns = {
    "ap": ("AP", 3),
    "hd95_mm": ("HD95, mm", 2),
    "surface_mm": ("surface distance, mm", 2),
    "dice": ("Dice", 3),
    "auc": ("ROC AUC", 3),
}
PROBABILITY_COLUMNS = {
    "ece": ("ECE", 4),
    "ece_near": (f"ECE within {NEAR_MM:g} mm", 3),
    "brier": ("Brier", 4),
    "dice_half": ("Dice at p > ½", 3),
}
IMAGES = {
    "ssim_unguided": ("SSIM to the input, unguided encode and decode, brain", 3),
    "psnr_unguided_db": ("PSNR of the same, dB", 1),
    "ssim_outside": ("SSIM to the present scan, guided, outside the tumour", 3),
    "psnr_outside_db": ("PSNR of the same, dB", 1),
    "size_error_truth": ("error of the size reached, over the size aimed at, true size", 3),
    "reach_truth": ("reach (gained / wanted), true size", 2),
    "size_error_ode": ("error of the size reached, forecast size", 3),
    "reach_ode": ("reach, forecast size", 2),
    "segmenter_error_now": ("for comparison: the segmenter's own error on the present scan", 3),
}
REGRESSOR = {
    "r2_clean": ("R², clean slices", 3),
    "r2_noisy": ("R², noise of t = 200", 3),
    "r2_clean_tumour": ("R², clean slices with tumour", 3),
    "r2_noisy_tumour": ("R², noise of t = 200, slices with tumour", 3),
}
GROWTH = {
    "log_error": ("absolute log error of the median area ratio (median)", 3),
    "coverage90": ("share of true areas in the forecast's 5–95 % range", 2),
}
TITLES = {
    TargetMode.TRUTH: "(a) Aimed at the true later area",
    TargetMode.ODE: "(b) Aimed at the growth forecast, from the scans up to the present one",
}
MEASURED = f"""## How it was measured

- **A pair** is the slice in which the later of two successive scans has most tumour, where that grew by a tenth or
  more; so the cases are chosen for growth, and a forecast from the scans so far tends to aim below it. A patient is
  the unit: its pairs are averaged first. Intervals are 95 % percentile bootstrap intervals of {RESAMPLES} resamples of
  the patients; p is of Wilcoxon's signed-rank test.
- **AP and ROC AUC** rank the candidates: the brain outside the present outline. Those in the later outline are to be
  found. **Dice, HD95 and surface distance** are of the present outline filled up with the best candidates to the true
  later area, which every method is told; of equal scores that do not all fit in, some are drawn at random, the same
  draw for each method, mean of {TIE_DRAWS} draws. No change keeps its own outline: scattered pixels would be a straw
  man. HD95 is the larger of both directed 95th percentiles; an empty outline is as far off as the image's diagonal.
- **ECE** is over ten equal bins, patients weighted equally, over all candidates and over those within {NEAR_MM:g} mm.
  Few pixels far away are ever tumour, so the first and Brier are small for all. Dice at p > ½ is told no area.
- **SSIM** has a window of {SSIM_WINDOW} pixels. Outside the tumour: the brain without the present, the later and the
  generated tumour, widened by half a window. Sizes are read by the segmenter, which does not guide.
- **Fisher–Kolmogorov** starts from the present outline. Tissue is Otsu's three classes of the slice's own T1 outside
  it: nothing grows in the darkest, and in the middle one cells spread a fifth as fast as in the brightest, which is
  the ratio of our simulator too; under the outline all is white matter. Pixels are ranked by the front's arrival.
- **Present scan's segmenter + distance**: log(p + .001) − 1 a mm, the slope tuned on validation patients. **Unguided**:
  the same sampler with guidance shut out, one member an encoding. **The paper's map**: its loop, law and s_R = 50 000,
  aimed at the true size in both tables, ranked by the mean change and told as a probability by the share of members
  that changed; of as many patients and members as `figures.json` states, guided by the model's own regressor.
- **The growth forecast** is that of `tumorcast fit` with the shipped prior, on the sizes up to the present scan and
  the dates of treatment, those ahead included.
"""


def card(rows: Sequence[Figures], record: dict[str, Any]) -> str:
    """The page. rows: of all patients; record: what figures.json tells of the run."""
    pairs = forecast_rows(rows)
    parts = [_opening(rows, pairs, record), _goals(rows)]
    for mode in TargetMode:
        parts.append(_mode(pairs, mode))
    parts += [
        _table_of("## Images and sizes", "means; medians of sizes", image_figures(pairs), IMAGES),
        _table_of("## Regressor", "all slices of the patients", regressor_figures(rows), REGRESSOR),
        _table_of("## Growth forecast", "area at the later date", growth_figures(pairs), GROWTH),
        "![reliability](reliability.png)\n\n![examples](examples.png)\n\n"
        "Six patients from the best to the worst average precision of the growth map, the ends included. Cyan: present "
        "outline; red: true later outline.\n",
        MEASURED,
    ]
    return "\n".join(parts)


def _opening(rows: Sequence[Figures], pairs: Sequence[Figures], record: dict[str, Any]) -> str:
    count = sum(len(row["pairs"]) for row in pairs)
    ratios = sorted(pair["ratio"] for row in pairs for pair in row["pairs"])
    model, cohort, machine, engine = (record[name] for name in ("model", "cohort", "machine", "engine"))
    growth = f"; area grew {ratios[0]:.2f} to {ratios[-1]:.2f} times" if ratios else ""
    return (
        f"# The demo model against what needs less\n\n"
        f"Written by `benchmarks/model_card.py`; every row and setting stands in [figures.json](figures.json). "
        f"**For research; not a medical device.**\n\n"
        f"Model {model['name']} (SHA-256 {model['sha256'][:12]}), cohort {cohort['name']} "
        f"({cohort['sha256'][:12]}), {len(rows)} patients, {len(pairs)} of them with {count} pairs of scans{growth}. "
        f"{record['settings']['forecast']['members']} members. {engine['provider']} on {engine['device']}, "
        f"{machine['processor']}, {machine['date']}, commit {machine['commit']}.\n\n"
        "What diffusion adds to the map is the difference to the progression network alone, a row of every table; that "
        "network is a part of the growth map and no baseline.\n"
    )


def _goals(rows: Sequence[Figures]) -> str:
    lines = [(one.wanted, one.found, "reached" if one.reached else "**not reached**") for one in goals(rows)]
    return "## Goals\n\n" + markdown_table(("goal", "found", ""), lines)


def _mode(pairs: Sequence[Figures], mode: TargetMode) -> str:
    lines = summarise(pairs, mode)
    maps = markdown_table(("method", "patients", *head_cells(COLUMNS)), [means_cells(line, COLUMNS) for line in lines])
    sure = [line for line in lines if "brier" in line.means]
    probabilities = markdown_table(
        ("probability", "patients", *head_cells(PROBABILITY_COLUMNS)),
        [means_cells(line, PROBABILITY_COLUMNS) for line in sure],
    )
    compared = markdown_table(
        ("growth map minus …", "AP", "HD95, mm", "Dice"),
        [_differences(line) for line in lines if line.method is not Method.PRODUCT],
    )
    return (
        f"## {TITLES[mode]}\n\n{maps}\nProbabilities:\n\n{probabilities}\n"
        f"Paired differences; ✔ the growth map is better, ✘ it is worse, and the interval excludes zero:\n\n{compared}"
    )


def head_cells(columns: Columns) -> list[str]:
    """The heads of a table's columns."""
    return [head for head, _ in columns.values()]


def means_cells(line: MethodSummary, columns: Columns) -> list[str]:
    """A method's line: its name, patients, and a cell a column."""
    figures = line.means | line.calibration
    cells = [figures[name].told(digits) if name in figures else "–" for name, (_, digits) in columns.items()]
    return [line.method.told, str(line.means["dice"].patients), *cells]


def _differences(line: MethodSummary) -> list[str]:
    return [line.method.told, *(marked(name, one, COLUMNS[name][1]) for name, one in line.differences.items())]


def marked(name: str, one: Difference, digits: int, *, least_patients: int = 2) -> str:
    """A difference to the growth map, ✔ or ✘ where its interval excludes zero, and p."""
    found = one.estimate
    better = (found.value < 0) == (name in LOWER_IS_BETTER)
    mark = f" {'✔' if better else '✘'}" if found.excludes_zero and found.patients >= least_patients else ""
    return f"{found.told(digits, signed=True)}{mark}, p {one.p:.2g}"


def _table_of(title: str, note: str, figures: dict[str, Estimate], names: Columns) -> str:
    lines = [(head, figures[name].told(digits)) for name, (head, digits) in names.items()]
    return f"{title}\n\n" + markdown_table((note, "found [95 %]"), lines)


def markdown_table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table, its first column to the left.

    >>> print(markdown_table(("a", "b"), [("x", "1")]))
    | a | b |
    |---|---|
    | x | 1 |
    <BLANKLINE>
    """
    rows = [heads, ["---"] * len(heads), *lines]
    texts = ["|" + "|".join(row) + "|" if row is rows[1] else "| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(texts) + "\n"
