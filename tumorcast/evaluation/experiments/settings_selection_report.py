"""Report on blind choices of settings: their true scores, the regret, and how well the blind score predicts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tumorcast.counted import counted
from tumorcast.evaluation.experiments.base import Findings, ReportPicture, Row, Table
from tumorcast.evaluation.experiments.forecast_scores import METRICS, NOTE, mean_scores
from tumorcast.evaluation.experiments.plots import draw_by_patient, draw_centred
from tumorcast.evaluation.experiments.report_tables import (
    as_figures,
    differences_table,
    means_table,
    numbers,
    values_of,
)
from tumorcast.evaluation.experiments.slice_plots import examples_picture
from tumorcast.evaluation.followup import TargetSize
from tumorcast.evaluation.metrics import SHARE, Floats, Metric
from tumorcast.evaluation.statistics import Estimate, difference, mean_of


def true_score(figures: Mapping[str, float]) -> float:
    """The score of a forecast against the later scan, see SCORE_NOTE; NaN where nothing has a value."""
    parts = [figures["ap_images"], 1 - figures["size_error"], figures["ssim_outside"], figures["ssim_changed"]]
    known = [max(part, 0.0) for part in parts if not np.isnan(part)]
    return float(np.mean(known)) if known else float("nan")


BEST, BLIND, WITH_MEMBERS = "best with hindsight", "blind choice", "blind choice, with its members"
DEFAULT, OTHERS, RANDOM, PAPER = "default", "best for the others", "random choice", "the paper's"
SCORE = Metric("score", "worth", 3, True, SHARE, true_score)  # the word that users see
LOST = (0.01, 0.05)  # of the best point's worth: a choice that loses no more is near it
BLIND_PARTS = ("score", "size", "preservation", "agreement", "past")
PREDICTED = tuple(
    metric for metric in (SCORE, *METRICS) if metric.name in {"score", "ap_images", "ssim_outside", "ssim_changed"}
)
SCORE_NOTE = (
    "Worth: mean of four figures in [0, 1], fixed before any of it was measured: AP of the segmented images, 1 − size "
    "error, SSIM outside, SSIM to the later image where it changed (each at least 0; one without a value is left out "
    "for all points of that patient). Best with hindsight, blind choice, random choice and best for the others are "
    "points of one grid at its fewest members; best for the others: the point of highest mean worth over all other "
    "patients, which is what one fixed setting, tuned on a cohort, can do; random choice: the mean over the grid."
)


@dataclass(frozen=True)
class Choices:
    """The rows of all patients, and the figures that each way of choosing would have got."""

    rows: dict[str, Row]

    @cached_property
    def names(self) -> list[str]:
        """(G,) of the grid's points, the same for every patient."""
        return [point["point"] for point in next(iter(self.rows.values()))["grid"]]

    @cached_property
    def true_scores(self) -> Floats:
        """(P, G) the score of each point against the later scan."""
        return self.of_grid("true", "score")

    @cached_property
    def blind_scores(self) -> Floats:
        """(P, G) the blind score of each point."""
        return self.of_grid("blind", "score")

    @property
    def picks(self) -> dict[str, list[int]]:
        """(P,) indices into the grid, by the ways of choosing that take a point of it."""
        best = np.argmax(np.nan_to_num(self.true_scores, nan=-1), axis=1).tolist()
        picks = {BEST: best, BLIND: np.argmax(self.blind_scores, axis=1).tolist()}
        if len(self.rows) > 1:
            others = [np.delete(self.true_scores, k, axis=0) for k in range(len(self.rows))]
            picks[OTHERS] = [int(np.argmax(np.nanmean(scores, axis=0))) for scores in others]
        return picks

    def of_grid(self, side: str, name: str) -> Floats:
        """(P, G) a figure of every point; side: "blind" or "true"."""
        return np.stack([numbers(point[side][name] for point in row["grid"]) for row in self.rows.values()])

    def values(self) -> dict[str, dict[str, Floats]]:
        """(P,) by choice and metric."""
        rows, picks = list(self.rows.values()), self.picks
        chosen: dict[str, list[Any]] = {
            name: [row["grid"][k]["true"] for row, k in zip(rows, indices, strict=True)]
            for name, indices in picks.items()
        }
        chosen[WITH_MEMBERS] = [_chosen(row) for row in rows]
        chosen[DEFAULT] = [row["default"] for row in rows]
        chosen[RANDOM] = [_mean_of_grid(row) for row in rows]
        if any(row["paper"] for row in rows):
            chosen[PAPER] = [row["paper"] for row in rows]
        order = (BEST, BLIND, WITH_MEMBERS, DEFAULT, OTHERS, RANDOM, PAPER)
        return {name: values_of(chosen[name], (SCORE, *METRICS)) for name in order if name in chosen}

    def highest(self, name: str) -> Floats:
        """(P,) the highest that any point of the grid has of a figure, NaN where none has it."""
        values = self.of_grid("true", name)
        return np.where(np.isnan(values).all(axis=1), np.nan, np.max(np.nan_to_num(values, nan=-np.inf), axis=1))

    def correlations(self) -> dict[str, dict[str, Floats]]:
        """(P,) by part of the blind score and true figure, Spearman's ρ over the points of each patient's grid."""
        return {
            part: {metric.name: self._rank_correlations(part, metric.name) for metric in PREDICTED}
            for part in BLIND_PARTS
            if any(row["grid"][0]["blind"][part] is not None for row in self.rows.values())
        }

    def _rank_correlations(self, part: str, name: str) -> Floats:
        pairs = zip(self.of_grid("blind", part), self.of_grid("true", name), strict=True)
        return np.array([_rank_correlation(before, after) for before, after in pairs])


def _chosen(row: Row) -> Row:
    point = next(point for point in row["grid"] + row["more_members"] if point["point"] == row["chosen"])
    return dict(point["true"])


def _mean_of_grid(row: Row) -> Row:
    names = (SCORE.name, *(metric.name for metric in METRICS))
    return mean_scores(
        [dict(zip(names, numbers(point["true"][n] for n in names), strict=True)) for point in row["grid"]]
    )


def _rank_correlation(before: Floats, after: Floats) -> float:
    """Spearman's; NaN where one of the two is the same everywhere, or has no value somewhere."""
    if np.isnan(before + after).any() or np.ptp(before) == 0 or np.ptp(after) == 0:
        return float("nan")
    return float(stats.spearmanr(before, after).statistic)


def findings(rows: dict[str, Row], pictures: Path, target: TargetSize) -> Findings:
    """The tables, the pictures and the answer. target: what all forecasts aimed at."""
    choices = Choices(rows)
    values, correlations = choices.values(), choices.correlations()
    metrics = (SCORE, *METRICS)
    regrets = {name: values[BEST]["score"] - chosen["score"] for name, chosen in values.items()}
    precision = {name: choices.highest("ap_images") - chosen["ap_images"] for name, chosen in values.items()}
    tables = [
        means_table("What each choice was worth", values, metrics, f"{SCORE_NOTE} {NOTE}"),
        differences_table("Against the blind choice", values, BLIND, metrics),
        _regret_table(regrets, precision, choices),
        _correlation_table(correlations),
        _points_table(choices),
        _patients_table(choices, values),
    ]
    figures = {
        "choices": as_figures(values, BLIND, metrics),
        "regret": {name: mean_of(lost) for name, lost in regrets.items()},
        "regret_of_ap_images": {name: mean_of(lost) for name, lost in precision.items()},
        "near_the_best": {name: {str(most): _near(lost, most) for most in LOST} for name, lost in regrets.items()},
        "rank_correlation": {
            part: {name: mean_of(rho) for name, rho in of_part.items()} for part, of_part in correlations.items()
        },
    }
    return Findings(
        _answer(values, regrets, correlations, target), figures, tables, _pictures(choices, values, pictures)
    )


def _answer(
    values: Any, regrets: Mapping[str, Floats], correlations: Mapping[str, Mapping[str, Floats]], target: TargetSize
) -> str:
    """The question and its answer."""
    lost = {name: mean_of(regret).text(3) for name, regret in regrets.items()}
    against = difference(values[BLIND]["score"], values[DEFAULT]["score"])
    near = _near(regrets[BLIND], LOST[0])
    others = f", the point that was best for the other patients {lost[OTHERS]}" if OTHERS in lost else ""
    paper = f", the paper's fixed settings {lost[PAPER]}" if PAPER in lost else ""
    return (
        "How near does `select`, which does not see the later scan, come to the best settings with hindsight? All "
        f"forecasts aim at the {target.label}. Its choice loses {lost[BLIND]} of worth (mean over "
        f"{counted(len(regrets[BLIND]), 'patient')}) to the best point of the grid; a random point loses "
        f"{lost[RANDOM]}, the "
        f"default {lost[DEFAULT]}{others}{paper}. Blind choice less default: "
        f"{against.estimate.text(3, signed=True)}, p {against.p:.2g}. {near.text(2)} of patients lose {LOST[0]:g} or "
        "less by the blind choice. Within a patient, the blind score ranks the points like their worth with ρ "
        f"{mean_of(correlations['score']['score']).text(2)}."
    )


def _near(regret: Floats, lost: float) -> Estimate:
    """The share of patients who lose no more than so much."""
    return mean_of(np.where(np.isnan(regret), np.nan, regret <= lost))


def _regret_table(regrets: Mapping[str, Floats], precision: Mapping[str, Floats], choices: Choices) -> Table:
    rows = [
        (
            name,
            mean_of(regret).text(3),
            *(_near(regret, lost).text(2) for lost in LOST),
            _share_that_is_better(name, choices),
            mean_of(precision[name]).text(3),
        )
        for name, regret in regrets.items()
    ]
    near = (f"patients who lose {lost:g} or less" for lost in LOST)
    head = ("", "regret", *near, "share of the grid that is better", "regret, AP of the images alone")
    note = (
        "Regret: worth of the best point with hindsight less that of the choice. The best of several noisy points "
        "flatters itself, so that no blind choice can come to 0. Settings outside the grid can have a negative one. A "
        "random point of the grid has half of it better, ties and itself apart. AP alone: to the point of highest AP."
    )
    return Table("What is lost", head, rows, note)


def _share_that_is_better(name: str, choices: Choices) -> str:
    if name not in choices.picks:
        return "–"
    own = np.take_along_axis(choices.true_scores, np.array(choices.picks[name])[:, None], axis=1)
    others = max(choices.true_scores.shape[1] - 1, 1)
    return mean_of((choices.true_scores > own).sum(axis=1) / others).text(2)


def _correlation_table(correlations: Mapping[str, Mapping[str, Floats]]) -> Table:
    rows = [
        (part, *(mean_of(of_part[metric.name]).text(2, signed=True) for metric in PREDICTED))
        for part, of_part in correlations.items()
    ]
    note = (
        "Spearman's ρ over the points of a patient's grid, mean over patients. Rows: the blind score and its parts, "
        "see docs/commands/select.md. 0: it tells nothing of which settings are better for this patient."
    )
    return Table("What the blind score foretells", ("", *(metric.label for metric in PREDICTED)), rows, note)


def _points_table(choices: Choices) -> Table:
    picks = choices.picks
    rows: list[tuple[str, ...]] = [
        (
            name,
            str(picks[BLIND].count(k)),
            str(picks[BEST].count(k)),
            mean_of(choices.true_scores[:, k]).text(3),
            mean_of(choices.blind_scores[:, k]).text(3),
        )
        for k, name in enumerate(choices.names)
    ]
    return Table("The points", ("", "chosen blindly", "best with hindsight", "worth", "blind score"), rows)


def _patients_table(choices: Choices, values: Any) -> Table:
    others = [name for name in values if name not in (BEST, BLIND)]
    rows = [
        (
            unit,
            f"{row['ratio']:.2f}",
            row["chosen"],
            choices.names[choices.picks[BEST][k]],
            *(_cell(values[name]["score"][k]) for name in (BEST, BLIND, *others)),
        )
        for k, (unit, row) in enumerate(choices.rows.items())
    ]
    head = ("patient", "area later / now", "chosen blindly", "best point", BEST, BLIND, *others)
    return Table("Every patient", head, rows, "Worth under each choice.")


def _cell(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _pictures(choices: Choices, values: Any, folder: Path) -> list[ReportPicture]:
    scores = {name: chosen["score"] for name, chosen in values.items() if name != WITH_MEMBERS}
    regret = scores[BEST] - scores[BLIND]
    titles = {unit: f"{unit}: regret {lost:.3f}" for unit, lost in zip(choices.rows, regret, strict=True)}
    return [
        ReportPicture(
            "worth",
            "What each choice was worth, patients in the order of their best point.",
            partial(draw_by_patient, list(choices.rows), scores, "worth"),
        ),
        ReportPicture(
            "foretold",
            "Every point of every patient, less that patient's mean over the grid.",
            partial(draw_centred, choices.blind_scores, choices.true_scores, ("blind score", "worth")),
        ),
        examples_picture("slices", "Patients from the least to the greatest regret.", folder, titles, regret),
    ]
