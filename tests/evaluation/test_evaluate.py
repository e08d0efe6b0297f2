"""Archives made by hand against cohorts of blobs: which scan is the truth, what is refused, what figures say."""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.errors import InputError
from tumorcast.evaluation.aggregate import COLUMNS, PatientSizes, PatientValues, Summaries, long_table, size_summaries
from tumorcast.evaluation.baselines import Baseline, Method, MethodMap
from tumorcast.evaluation.evaluate import Evaluation, EvaluationSettings, Evaluator
from tumorcast.evaluation.followup import FollowUp, TargetSize
from tumorcast.evaluation.metrics import AP, DICE, DICE_HALF
from tumorcast.evaluation.score import by_metric
from tumorcast.evaluation.tables import write_evaluation
from tumorcast.records import Contrast, PatientOutcome, Session, Status

Blob = Callable[..., Session]
FREE = (Baseline.NO_CHANGE, Baseline.DILATION)
SETTINGS = EvaluationSettings(FREE)


def silent(done: int, total: int) -> None:
    """No progress."""


def slice_forecast(now: Session, later: Session, place: int = 0, **changes: Any) -> SliceForecast:
    """A forecast that knows what comes: the later outline is its growth map, the later image its mean."""
    truth = (later.labels[place] > 0).astype(np.float32)
    nothing = np.zeros_like(truth)
    aimed = np.full(3, later.area_mm2[place])
    forecast = SliceForecast(
        image=now.images[place],
        labels=now.labels[place],
        brain=now.brain[place],
        affine=now.affine,
        mean=later.images[place],
        std=np.zeros_like(later.images[place]),
        changed=nothing,
        tumour=nothing,
        tumour_now=nothing,
        aimed_mm2=aimed,
        reached_mm2=aimed,
        present_mm2=float(now.area_mm2[place]),
        present_segmented_mm2=float(now.area_mm2[place]),
        source_slice=int(now.source_slice[place]),
        growth=truth,
    )
    return replace(forecast, **changes)


def write_archive(
    path: Path, patients: dict[str, list[SliceForecast]], target_day: float | None = None, **told: Any
) -> Path:
    """An archive of forecasts from session 000 of day 0."""
    shards = []
    for name, slices in patients.items():
        shard, key = path.parent / "parts" / f"{path.stem}-{name}.h5", ShardKey("run", name)
        by_name = {f"{one.source_slice:04d}": one for one in slices}
        write_shard(shard, key, PatientForecast(name, "000", 0.0, target_day, None, None, {}), by_name)
        shards.append(PatientShards(name, {slice_name: [(shard, key)] for slice_name in by_name}))
    outcomes = [PatientOutcome(name, Status.OK) for name in patients]
    merge(path, shards, {"contrasts": [str(name) for name in Contrast]} | told, outcomes)
    return path


def write_truth(path: Path, sessions: Iterable[Session], *, contrasts: int = 4, **config: Any) -> Path:
    write_cohort(path, sessions, {}, image_size=64, contrasts=tuple(Contrast)[:contrasts], config=config)
    return path


def judge(archive: Path, truth: Path, settings: EvaluationSettings = SETTINGS) -> Evaluation:
    with MapArchive.open(archive) as opened, Cohort.open(truth) as cohort:
        return Evaluator(opened, cohort, settings).evaluate(silent)


@pytest.fixture
def scans(blob: Blob) -> list[Session]:
    """Patient A's: a blob of radius 5 on day 0, of 7 on day 60, of 9 on day 120."""
    return [blob("A", f"{k:03d}", 60.0 * k, 5.0 + 2 * k) for k in range(3)]


@pytest.fixture
def truth(scans: list[Session], tmp_path: Path) -> Path:
    return write_truth(tmp_path / "truth.h5", scans)


def told_by(found: Evaluation, method: Method) -> dict[str, float]:
    return by_metric(found.patients[0].slices[0].maps, method)


def test_a_forecast_that_is_right_has_no_fault(scans: list[Session], truth: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "maps.h5", {"A": [slice_forecast(scans[0], scans[1])]}, target_day=60.0)
    found = judge(archive, truth)
    right = told_by(found, Method.PRODUCT)
    for name in ("ap", "auc", "dice", "coverage", "coverage_plan", "continuous_dice", "dice_half"):
        assert right[name] == 1.0, name
    assert (right["hd95_mm"], right["surface_mm"], right["brier"]) == (0.0, 0.0, 0.0)
    assert np.isnan(right["direction_degrees"])  # the blob grows about its centre
    assert [value for name, value in right.items() if name.startswith("dice_at_")] == [1.0] * 9
    forecast, present = (by_metric(found.patients[0].slices[0].images, name) for name in ("forecast", "present"))
    assert (forecast["ssim_brain"], forecast["psnr_db_changed"]) == (pytest.approx(1.0), 100.0)
    assert present["psnr_db_changed"] < 20
    assert present["psnr_db_unchanged"] == 100.0
    assert "coverage" not in told_by(found, Method.NO_CHANGE)
    assert told_by(found, Method.NO_CHANGE)["dice"] < told_by(found, Method.DILATION)["dice"]


def test_all_outlines_have_the_size_aimed_at_or_the_true_one(scans: list[Session], truth: Path, tmp_path: Path) -> None:
    aimed = np.array([1.1, 1.2, 9.0]) * scans[0].area_mm2[0]
    made = slice_forecast(scans[0], scans[1], aimed_mm2=aimed)
    archive = write_archive(tmp_path / "maps.h5", {"A": [made]}, target_day=60.0)
    now, later = (int((one.labels[0] > 0).sum()) for one in scans[:2])
    found = judge(archive, truth)
    assert found.patients[0].slices[0].pixels_given == round(1.2 * now)  # the median
    expected = 2 * round(1.2 * now) / (round(1.2 * now) + later)
    assert told_by(found, Method.PRODUCT)["dice"] == pytest.approx(expected)
    assert told_by(found, Method.PRODUCT)["coverage"] == pytest.approx((round(1.2 * now) - now) / (later - now))
    found = judge(archive, truth, replace(SETTINGS, size=TargetSize.TRUE))
    assert found.patients[0].slices[0].pixels_given == later
    assert told_by(found, Method.PRODUCT)["dice"] == 1.0


def test_a_tumour_that_shrinks_is_eroded_by_dilation(blob: Blob, tmp_path: Path) -> None:
    scans = [blob("A", "000", 0.0, 8.0), blob("A", "001", 60.0, 6.0)]
    archive = write_archive(tmp_path / "maps.h5", {"A": [slice_forecast(*scans)]})
    found = judge(archive, write_truth(tmp_path / "truth.h5", scans))
    eroded, still = (told_by(found, method) for method in (Method.DILATION, Method.NO_CHANGE))
    assert still["dice"] < 0.8
    assert eroded["dice"] > 0.95
    assert np.isnan(eroded["ap"]) and np.isnan(eroded["coverage"])  # nothing is new
    assert told_by(found, Method.PRODUCT)["dice"] == 1.0
    assert told_by(found, Method.CHANGED)["dice"] == eroded["dice"]  # what changed says nothing of what stays


def test_what_members_changed_is_ranked_by_how_much_where_they_are_kept(
    scans: list[Session], truth: Path, tmp_path: Path
) -> None:
    members = np.stack([scans[1].images[0]] * 3)
    made = slice_forecast(scans[0], scans[1], members=members)
    kept = judge(write_archive(tmp_path / "kept.h5", {"A": [made]}), truth)
    left = judge(write_archive(tmp_path / "left.h5", {"A": [replace(made, members=None)]}), truth)
    assert told_by(kept, Method.CHANGED)["ap"] == 1.0
    assert told_by(left, Method.CHANGED)["auc"] == 0.5  # changed is 0 everywhere here


@pytest.mark.parametrize("taken", [(60.0, "001", 0.0), (100.0, "002", 20.0), (None, "001", None)])
def test_the_truth_is_the_later_scan_nearest_to_the_day_aimed_at(
    scans: list[Session], truth: Path, tmp_path: Path, taken: tuple[float | None, str, float | None]
) -> None:
    target, session, off = taken
    archive = write_archive(tmp_path / "maps.h5", {"A": [slice_forecast(scans[0], scans[1])]}, target)
    found = judge(archive, truth)
    assert (found.patients[0].later_session, found.patients[0].days_off) == (session, off)
    assert any("aims at no day" in note for note in found.notes) == (target is None)


def test_a_scan_without_a_mask_is_no_truth(scans: list[Session], tmp_path: Path) -> None:
    unknown = replace(scans[1], area_mm2=np.full(3, np.nan), volume_mm3=float("nan"))
    truth = write_truth(tmp_path / "truth.h5", [scans[0], unknown, scans[2]])
    archive = write_archive(tmp_path / "maps.h5", {"A": [slice_forecast(scans[0], scans[1])]}, 60.0)
    with pytest.raises(InputError, match=r"60 days off.*--max-days-off"):
        judge(archive, truth)
    found = judge(archive, truth, replace(SETTINGS, max_days_off=60))
    assert found.patients[0].later_session == "002"


def test_slices_that_the_truth_lacks_are_left_out_and_told(scans: list[Session], tmp_path: Path) -> None:
    names = ("images", "labels", "brain", "area_mm2", "brain_mm2", "source_slice")
    one = replace(scans[1], **{name: getattr(scans[1], name)[:1] for name in names})
    made = [slice_forecast(scans[0], scans[1], place) for place in range(3)]
    archive = write_archive(tmp_path / "maps.h5", {"A": made})
    found = judge(archive, write_truth(tmp_path / "truth.h5", [one]))
    assert (len(found.patients[0].slices), found.patients[0].slices_left_out) == (1, 2)
    assert any(note.startswith("2 forecast slices") for note in found.notes)
    none = replace(one, source_slice=np.array([40]))
    with pytest.raises(InputError, match=r"001.* 3 .*--slices all"):
        judge(archive, write_truth(tmp_path / "other.h5", [none]))


def test_what_does_not_belong_together_is_refused(blob: Blob, scans: list[Session], tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "maps.h5", {"A": [slice_forecast(scans[0], scans[1])]}, 60.0)
    with pytest.raises(InputError, match=r"maps.h5 \(A\).* \(B\)"):
        judge(archive, write_truth(tmp_path / "b.h5", [blob("B", "001", 60.0, 6.0)]))
    with pytest.raises(InputError, match="--contrasts t1n,t1c"):
        judge(archive, write_truth(tmp_path / "two.h5", [blob("A", "001", 60.0, 6.0, 2)], contrasts=2))
    with pytest.raises(InputError, match="--clinical"):
        judge(archive, write_truth(tmp_path / "undated.h5", scans, dated=False))
    moved = replace(scans[0], day=5.0)
    with pytest.raises(InputError, match=r"000 .* 5, .* 0 "):
        judge(archive, write_truth(tmp_path / "moved.h5", [moved, *scans[1:]]))
    gone = blob("A", "001", 60.0, 0.0)
    with pytest.raises(InputError, match=r"gone.h5: no tumour"):
        judge(archive, write_truth(tmp_path / "gone.h5", [gone]))


def test_another_grid_fails_that_patient_alone_and_names_both(blob: Blob, scans: list[Session], tmp_path: Path) -> None:
    theirs = [blob("B", "000", 0.0, 5.0), blob("B", "001", 60.0, 7.0)]
    made = {"A": [slice_forecast(scans[0], scans[1])], "B": [slice_forecast(*theirs)]}
    archive = write_archive(tmp_path / "maps.h5", made)
    shifted = theirs[1].affine.copy()
    shifted[0, 3] = 12.5
    truth = write_truth(tmp_path / "truth.h5", [scans[1], replace(theirs[1], affine=shifted)])
    found = judge(archive, truth)
    assert [outcome.status for outcome in found.outcomes] == [Status.OK, Status.FAILED]
    reason = found.outcomes[1].reason
    assert "maps.h5 has 64 x 64 pixels, affine [[-4.0, 0.0, 0.0, 0.0]" in reason
    assert "truth.h5 has 64 x 64 pixels, affine [[-4.0, 0.0, 0.0, 12.5]" in reason
    assert [patient.patient_id for patient in found.patients] == ["A"]


def test_patients_are_the_unit_and_sizes_are_summed(blob: Blob, tmp_path: Path) -> None:
    sessions = {name: [blob(name, "000", 0.0, 5.0), blob(name, "001", 60.0, 7.0)] for name in "AB"}
    now, later = sessions["A"]
    wrong = np.zeros_like(slice_forecast(now, later).growth)
    made = [slice_forecast(now, later, 0), slice_forecast(now, later, 1, growth=wrong)]
    archive = write_archive(tmp_path / "maps.h5", {"A": made, "B": [slice_forecast(*sessions["B"])]})
    found = judge(archive, write_truth(tmp_path / "truth.h5", [one for both in sessions.values() for one in both]))
    half = told_by(found, Method.DILATION)["ap"]
    table = long_table(found.patients)
    assert tuple(table.columns) == COLUMNS
    assert table.groupby("patient_id")["slice"].nunique().to_dict() == {"A": 2, "B": 1}
    values = PatientValues.of(table).of_metric(Method.PRODUCT, DICE_HALF)
    np.testing.assert_allclose(values, [0.5, 1.0])  # an empty outline has a Dice of 0
    product = Summaries.of(found.patients).methods[0]
    assert (product.method, product.means["dice_half"].value) == (Method.PRODUCT, pytest.approx(0.75))
    assert half > 0.9
    np.testing.assert_allclose(PatientSizes.of(found.patients).truth, np.array([2, 1]) * later.area_mm2[0])


def test_patients_count_once_however_many_slices_they_have() -> None:
    both = (("product", 0.7), ("dilation", 0.1))
    lines = [("A", k, method, "dice", value) for k in range(3) for method, value in both]
    lines += [("B", 0, "product", "dice", 0.9), ("B", 0, "dilation", "dice", 0.5), ("C", 0, "dilation", "dice", 0.5)]
    lines += [("A", 3, "product", "dice", np.nan)]
    values = PatientValues.of(pd.DataFrame(lines, columns=list(COLUMNS)))
    np.testing.assert_allclose(values.of_metric(Method.PRODUCT, DICE), [0.7, 0.9, np.nan])
    assert values.mean_estimates(Method.PRODUCT, [DICE])["dice"].value == pytest.approx(0.8)
    found = values.differences(Method.PRODUCT, Method.DILATION, [DICE, AP])
    assert found["dice"].estimate.value == pytest.approx((0.6 + 0.4) / 2)
    assert found["ap"].estimate.patients == 0
    assert values.differences(Method.PRODUCT, Method.PRODUCT, [DICE]) == {}
    assert values.methods() == [Method.PRODUCT, Method.DILATION]


def test_other_methods_are_judged_beside(scans: list[Session], truth: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "maps.h5", {"A": [slice_forecast(scans[0], scans[1])]})

    def more_maps(followup: FollowUp, forecast: SliceForecast) -> dict[Method, MethodMap]:
        return {Method.PAPER: MethodMap((followup.later.labels > 0).astype(float))}

    with MapArchive.open(archive) as opened, Cohort.open(truth) as cohort:
        found = Evaluator(opened, cohort, SETTINGS, more_maps=more_maps).evaluate(silent)
    assert told_by(found, Method.PAPER)["ap"] == 1.0
    assert Summaries.of(found.patients).methods[-2].method is Method.PAPER


def test_sizes_by_hand() -> None:
    spread = [np.array([90.0, 100.0, 110.0]), np.array([150.0, 150.0, 150.0]), np.array([10.0, 20.0, 30.0])]
    truth, present = np.array([105.0, 200.0, 40.0]), np.array([100.0, 100.0, 40.0])
    aimed, _, still = size_summaries(PatientSizes(truth, present, spread, spread))
    told = np.array([100.0, 150.0, 20.0])
    errors = np.square(told - truth).sum()
    assert aimed.figures["r2"].value == pytest.approx(r2_score(truth, told))
    assert aimed.figures["nrmse"].value == pytest.approx(np.sqrt(errors / 3) / truth.mean())
    assert aimed.figures["median_error"].value == pytest.approx(0.25)  # of 1/21, 1/4 and 1/2
    assert aimed.figures["coverage90"].value == 0.5  # in, no spread, out
    assert aimed.figures["coverage90"].patients == 2
    assert "coverage90" not in still.figures and aimed.difference is None
    assert still.difference is not None
    expected = np.mean([1 / 21, 1 / 4, 1 / 2]) - np.mean([1 / 21, 1 / 2, 0])
    assert still.difference.estimate.value == pytest.approx(expected)


def test_all_that_is_written(blob: Blob, tmp_path: Path) -> None:
    sessions = {
        name: [blob(name, "000", 0.0, 5.0), blob(name, "001", 60.0, radius)]
        for name, radius in (("A", 7.0), ("B", 4.0))
    }
    made = {name: [slice_forecast(*both)] for name, both in sessions.items()}
    archive = write_archive(tmp_path / "maps.h5", made | {"Z": made["A"]})
    truth = write_truth(tmp_path / "truth.h5", [one for both in sessions.values() for one in both])
    out = tmp_path / "found"
    write_evaluation(out, judge(archive, truth))
    assert {path.name for path in out.iterdir()} == {
        "evaluation.json",
        "evaluation.md",
        "rows.csv",
        "reliability.png",
        "sizes.png",
    }
    methods = ["product", "generated_segmented", "no_change", "dilation", "changed"]
    lines = list(csv.DictReader((out / "rows.csv").read_text(encoding="utf-8").splitlines()))
    assert len(lines) == 2 * len(methods)
    by_place = {(line["patient_id"], line["method"]): line for line in lines}
    assert by_place["A", "product"]["ap"] == "1.0" and by_place["B", "product"]["ap"] == ""  # nothing new in B
    assert by_place["A", "product"]["dice_at_0.5"] == "1.0" and by_place["A", "dilation"]["dice_at_0.5"] == ""
    told = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert [line["method"] for line in told["methods"]] == methods
    assert told["methods"][0]["means"]["ap"] == {"value": 1.0, "low": None, "high": None, "patients": 1}
    assert told["outcomes"][2] == {"patient_id": "Z", "status": "skipped", "reason": f"not in {truth}"}
    page = (out / "evaluation.md").read_text(encoding="utf-8")
    assert page.count("outlines of the size aimed at") == 5  # said before, and in every table that uses it
    assert "✔" not in page.split("is better, ✘")[1]  # two patients prove nothing
    assert "nan" not in page and "1 skipped, 0 failed" in page
