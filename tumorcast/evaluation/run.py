"""A comparison of a whole cohort: every patient's row, resumed where it stopped, and the page that tells it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.durable import written_whole
from tumorcast.engines.protocol import check_same_images
from tumorcast.errors import InputError
from tumorcast.evaluation.card import card
from tumorcast.evaluation.comparison import Comparison, TargetMode
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.methods import Method
from tumorcast.evaluation.pairs import pairs_of
from tumorcast.evaluation.rows import RowStore
from tumorcast.evaluation.summary import (
    forecast_rows,
    goals,
    growth_figures,
    image_figures,
    regressor_figures,
    summarise,
    values_of,
)

EXAMPLES = 6

Report = Callable[[int, int], None]


def compare_patients(comparison: Comparison, store: RowStore, paper_patients: int, report: Report) -> list[Figures]:
    """The rows of every patient in the order of the cohort, those made that the store lacks.

    paper_patients: for how many of those with a pair, spread evenly over the cohort, the paper's map is made.
    Raises InputError if the cohort and the model are for different images.
    """
    check_same_images(comparison.cohort, comparison.engine.info.images)
    names = comparison.cohort.patient_ids()
    paired = [name for name in names if pairs_of(comparison.cohort, name, 1)]
    places = np.linspace(0, len(paired) - 1, min(paper_patients, len(paired))).astype(int)
    papered = {paired[place] for place in places}
    for done, name in enumerate(names, start=1):
        if name not in store.rows:
            store.add(*comparison.patient(name, paper=name in papered))
        report(done, len(names))
    return [store.rows[name] for name in names]


def write_card(out: Path, rows: Sequence[Figures], store: RowStore, record: dict[str, Any]) -> None:
    """figures.json, README.md, reliability.png and examples.png in folder `out`.

    Raises InputError if no patient has a pair.
    """
    from tumorcast.evaluation.figures import draw_examples, draw_reliability  # noqa: PLC0415 - matplotlib is slow

    pairs = forecast_rows(rows)
    if not pairs:
        raise InputError(f"{out}: no patient's tumour grew by a tenth between two scans; give a cohort where some do")
    with written_whole(out / "figures.json") as temporary:
        text = json.dumps(plain(record | summaries(rows) | {"patients": list(rows)}), indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    with written_whole(out / "README.md") as temporary:
        temporary.write_text(card(rows, record), encoding="utf-8")
    draw_reliability(pairs, out / "reliability.png")
    draw_examples([(title, store.example(name)) for name, title in chosen_examples(pairs)], out / "examples.png")


def summaries(rows: Sequence[Figures]) -> dict[str, Any]:
    """Everything in the tables, under the names of its dataclasses."""
    pairs = forecast_rows(rows)
    return {
        "goals": goals(rows),
        "methods": {str(mode): summarise(pairs, mode) for mode in TargetMode},
        "images": image_figures(pairs),
        "regressor": regressor_figures(rows),
        "growth": growth_figures(pairs),
    }


def chosen_examples(pairs: Sequence[Figures]) -> list[tuple[str, str]]:
    """(patient, title) of EXAMPLES patients from the best to the worst average precision, the ends among them."""
    scores = values_of(pairs, TargetMode.TRUTH, Method.PRODUCT, "ap")
    order = np.argsort(-np.nan_to_num(scores), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).astype(int))
    return [
        (
            pairs[k]["patient_id"],
            f"{pairs[k]['patient_id']}: AP {scores[k]:.2f}, area × {pairs[k]['pairs'][0]['ratio']:.2f}",
        )
        for k in order[places]
    ]


def plain(value: Any) -> Any:
    """As JSON can hold it: dataclasses as objects, numbers that are not finite as null.

    >>> plain({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return plain(vars(value)) if hasattr(value, "__dataclass_fields__") else value
