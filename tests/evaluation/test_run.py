"""A whole comparison: resumed, refused, summarised and written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.comparison import Comparison, TargetMode
from tumorcast.evaluation.methods import Method
from tumorcast.evaluation.rows import ROWS, RowStore
from tumorcast.evaluation.run import chosen_examples, compare_patients, plain, write_card
from tumorcast.evaluation.summary import goals, reliability_bins, summarise, values_of

MADE_OF = {"model": {"name": "still", "sha256": "f00" * 10}, "cohort": {"name": "blobs", "sha256": "ba5" * 10}}
RECORD = MADE_OF | {
    "settings": {"forecast": {"members": 3}},
    "engine": {"provider": "torch", "device": "cpu"},
    "machine": {"processor": "P", "date": "2026-11-26", "commit": "c0ffee"},
}


def silent(done: int, total: int) -> None:
    """No progress."""


def test_a_stopped_comparison_goes_on_and_ends_alike(comparison: Comparison, tmp_path: Path) -> None:
    whole = compare_patients(comparison, RowStore.open(tmp_path / "whole", MADE_OF), 1, silent)
    store = RowStore.open(tmp_path / "cut", MADE_OF)
    for row in whole[:2]:
        store.add(row, None)
    path = tmp_path / "cut" / ROWS
    path.write_text(path.read_text()[:-40])  # the second row is cut off
    store = RowStore.open(tmp_path / "cut", MADE_OF)
    assert list(store.rows) == ["A"]
    seen: list[tuple[int, int]] = []
    again = compare_patients(comparison, store, 1, lambda *done: seen.append(done))
    assert json.dumps(again) == json.dumps(whole)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(RowStore.open(tmp_path / "cut", MADE_OF).rows) == ["A", "B", "C"]


def test_rows_of_something_else_are_refused(tmp_path: Path) -> None:
    RowStore.open(tmp_path, MADE_OF)
    with pytest.raises(UsageError, match=r"model\.name = 'still' there, but 'other' now"):
        RowStore.open(tmp_path, MADE_OF | {"model": {"name": "other"}})
    (tmp_path / ROWS).write_text("no rows\n")
    with pytest.raises(InputError, match="not the rows of a comparison"):
        RowStore.open(tmp_path, MADE_OF)


def test_a_model_of_other_images_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    comparison.engine.info = replace(comparison.engine.info, image_size=128)
    with pytest.raises(InputError, match=r"slices are .* at 64 px, but the model takes .* at 128 px"):
        compare_patients(comparison, RowStore.open(tmp_path, MADE_OF), 0, silent)


def test_the_page_tells_every_goal_and_every_method(comparison: Comparison, tmp_path: Path) -> None:
    store = RowStore.open(tmp_path / "rows", MADE_OF)
    rows = compare_patients(comparison, store, 2, silent)
    out = tmp_path / "card"
    write_card(out, rows, store, RECORD)
    page = (out / "README.md").read_text()
    told = json.loads((out / "figures.json").read_text())
    assert told["goals"][0] == {"wanted": "at least 30 patients with a pair", "found": "2", "reached": False}
    assert page.count("**not reached**") == sum(not goal["reached"] for goal in told["goals"]) > 0
    assert [one["wanted"] for one in told["goals"] if f"| {one['wanted']} |" not in page] == []
    for method in Method:
        assert (method.told in page) == (method not in (Method.PROGRESSION_ALONE, Method.CHANGED))
    assert [row["patient_id"] for row in told["patients"]] == ["A", "B", "C"]
    assert {path.name for path in out.iterdir()} == {"README.md", "figures.json", "reliability.png", "examples.png"}


def test_a_cohort_without_growth_is_refused(tmp_path: Path) -> None:
    rows = [{"patient_id": "C", "pairs": [], "regressor": {"true": [], "clean": [], "noisy": []}}]
    with pytest.raises(InputError, match="no patient's tumour grew by a tenth"):
        write_card(tmp_path, rows, RowStore(tmp_path), RECORD)


def row(name: str, product: list[float], dilation: list[float]) -> dict[str, Any]:
    """A patient's row with the average precision of two methods, and a probability that says 0.2 of what all became."""
    sums = {"count": [10.0, 0.0], "said": [2.0, 0.0], "true": [10.0, 0.0]}
    common = {"hd95_mm": 1.0, "dice": 0.5, "auc": 0.5, "surface_mm": 1.0}
    return {
        "patient_id": name,
        "pairs": [
            {
                "any": {"dilation": common | {"ap": other}},
                "ode": {"product": common | {"ap": 0.0}},
                "truth": {"product": common | {"ap": own, "reliability": sums, "brier": 0.1}},
                "ratio": 1.5,
            }
            for own, other in zip(product, dilation, strict=True)
        ],
    }


def test_patients_count_once_however_many_pairs_they_have() -> None:
    rows = [row("A", [0.8, 0.6, 0.7], [0.1, 0.1, 0.1]), row("B", [0.9], [0.5])]
    np.testing.assert_allclose(values_of(rows, TargetMode.TRUTH, Method.PRODUCT, "ap"), [0.7, 0.9])
    product, dilation = summarise(rows, TargetMode.TRUTH)
    assert product.means["ap"].value == pytest.approx(0.8)
    assert product.differences == {}
    assert dilation.differences["ap"].estimate.value == pytest.approx((0.6 + 0.4) / 2)
    assert dilation.differences["ap"].estimate.excludes_zero
    assert not dilation.differences["hd95_mm"].estimate.excludes_zero
    assert "brier" not in dilation.means and dilation.calibration == {}


def test_calibration_weighs_patients_equally() -> None:
    rows = [row("A", [0.8] * 9, [0.1] * 9), row("B", [0.9], [0.5])]
    for pair in rows[1]["pairs"]:
        pair["truth"]["product"]["reliability"] = {"count": [10.0, 0.0], "said": [2.0, 0.0], "true": [2.0, 0.0]}
    bins = reliability_bins(rows, TargetMode.TRUTH, Method.PRODUCT, "reliability")
    np.testing.assert_allclose(bins[:, :, 0], [[1.0, 0.2, 1.0], [1.0, 0.2, 0.2]])
    product, _ = summarise(rows, TargetMode.TRUTH)
    assert product.calibration["ece"].value == pytest.approx(0.4)  # said .2, true .6 on average


def test_a_figure_that_nobody_has_is_no_goal_reached(comparison: Comparison, tmp_path: Path) -> None:
    """A regressor that knows no noise of t = 200 has not reached what is asked of it there."""
    comparison.engine.info = replace(comparison.engine.info, noise_levels=100)
    rows = compare_patients(comparison, RowStore.open(tmp_path, MADE_OF), 0, silent)
    (noisy,) = (goal for goal in goals(rows) if "t = 200" in goal.wanted)
    assert (noisy.found, noisy.reached) == ("nan", False)


def test_a_baseline_that_was_not_made_is_a_goal_not_reached(comparison: Comparison, tmp_path: Path) -> None:
    rows = compare_patients(comparison, RowStore.open(tmp_path, MADE_OF), 0, silent)
    of_paper = [goal for goal in goals(rows) if Method.PAPER.told in goal.wanted]
    assert [(goal.found, goal.reached) for goal in of_paper] == [("not measured", False)] * 4


def test_a_goal_is_reached_in_its_own_direction() -> None:
    """Smaller distances and larger precision are better; an interval that holds zero is no success."""
    rows = [row(f"P{k}", [0.8 + k / 100], [0.5]) for k in range(6)]
    for one in rows:
        one["regressor"] = {"true": [], "clean": [], "noisy": []}
        one["pairs"][0]["images"] = dict.fromkeys(("ssim_unguided", "psnr_unguided_db", "ssim_outside"), 1.0)
        one["pairs"][0]["images"]["psnr_outside_db"] = 1.0
        size = {"size_error": 0.0, "reach": 1.0, "segmenter_error_now": 0.0}
        one["pairs"][0]["size"] = {"truth": size, "ode": size}
        one["pairs"][0]["any"]["dilation"]["hd95_mm"] = 0.5
        one["pairs"][0]["ode"]["product"]["hd95_mm"] = 0.25
    found = {goal.wanted: goal.reached for goal in goals(rows)}
    assert found["AP better than isotropic dilation, true size"]
    assert not found["AP better than isotropic dilation, forecast size"]  # 0 against 0.5
    assert not found["HD95 better than isotropic dilation, true size"]  # 1 against 0.5
    assert found["HD95 better than isotropic dilation, forecast size"]  # 0.25 against 0.5


def test_examples_run_from_the_best_patient_to_the_worst() -> None:
    rows = [row(f"P{k}", [score], [0.1]) for k, score in enumerate((0.2, 0.9, 0.4, 0.7, 0.1, 0.8, 0.3, 0.6))]
    names = [name for name, _ in chosen_examples(rows)]
    assert (len(names), names[0], names[-1]) == (6, "P1", "P4")
    assert chosen_examples(rows)[0][1] == "P1: AP 0.90, area × 1.50"


def test_json_holds_no_nan() -> None:
    assert plain({"a": [float("inf"), 1], "b": (True, None, "x")}) == {"a": [None, 1], "b": [True, None, "x"]}
