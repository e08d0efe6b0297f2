"""Volumes of balls whose scores are known by hand, and an archive of volumes alone against the scans that came."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fakes import FakeEngine, model_info
from tumorcast.archive.maps import MapArchive, PatientForecast, VolumeForecast, first_voxels
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.cli.main import app
from tumorcast.data.cohort import Cohort, write_cohort
from tumorcast.errors import InputError
from tumorcast.evaluation.baselines import Baseline, Method
from tumorcast.evaluation.evaluate import EvaluationSettings
from tumorcast.evaluation.followup import NoTruthError
from tumorcast.evaluation.volume_baselines import PlaneSegmenter, VolumeMap, volume_baselines
from tumorcast.evaluation.volume_evaluator import PatientVolume, VolumeEvaluation, VolumeEvaluator
from tumorcast.evaluation.volume_followup import VolumeFollowUp, judged_horizon
from tumorcast.evaluation.volume_score import VolumeScores, judge_volumes
from tumorcast.evaluation.volume_tables import PlanCoverage, VolumeSummaries, write_volumes
from tumorcast.records import Contrast, PatientOutcome, Session, SessionVolume, Status

SHAPE = (40, 48, 48)
MM = 2.0
AFFINE = np.diag([-MM, -MM, MM, 1.0])
CENTRE = (20, 24, 24)
HALF = np.array([0.5])


def ball(radius: float, centre: tuple[float, float, float] = CENTRE) -> np.ndarray:
    """Voxels nearer to a centre than a radius, in voxels."""
    z, y, x = (axis - middle for axis, middle in zip(np.ogrid[:40, :48, :48], centre, strict=True))
    return np.sqrt(z**2 + y**2 + x**2) < radius


def scan(tumour: np.ndarray, contrasts: int = 4) -> SessionVolume:
    brain = ball(18)
    image = np.where(tumour, 230, np.where(brain, 128, 0)).astype(np.uint8)
    labels = np.where(tumour, 3, 0).astype(np.uint8)
    return SessionVolume(np.stack([image] * contrasts), labels, brain, AFFINE, MM)


def in_order_of(truth: np.ndarray) -> VolumeMap:
    """What knows the truth: its voxels first."""
    return VolumeMap(np.where(truth, 0.0, 1.0), truth.astype(np.float32))


def judge(before: np.ndarray, after: np.ndarray, product: VolumeMap, **told: object) -> VolumeScores:
    told = {"baselines": (Baseline.NO_CHANGE, Baseline.DILATION), **told}
    return judge_volumes(scan(before), scan(after), product, HALF, tuple(Contrast), **told)


def test_what_knows_the_truth_has_no_fault() -> None:
    before, after = ball(5), ball(9)
    found = judge(before, after, in_order_of(after))
    right = found.values[Method.PRODUCT]
    assert [right[name] for name in ("ap", "ap_seen_slices", "ap_new_slices", "recall_new_slices")] == [1.0] * 4
    assert [right[f"dice{end}"] for end in ("", "_expected", "_half")] == [1.0] * 3
    assert [right[f"hd95_mm{end}"] for end in ("", "_expected", "_half")] == [0.0] * 3
    assert (right["coverage_plan"], right["expected_share"], right["surface_mm"]) == (1.0, 1.0, 0.0)
    assert (right["brier"], right["ece"], right["ece_near"]) == (0.0, 0.0, 0.0)
    facts, new = found.facts, after & ~before
    sizes = facts.present_mm3, facts.true_mm3, facts.expected_mm3
    assert sizes == tuple(mask.sum() * MM**3 for mask in (before, after, after))
    apart = new[:16].sum() + new[25:].sum()  # |z - 20| < 5 shows tumour now
    assert facts.share_in_new_slices == pytest.approx(apart / new.sum())


def test_a_ball_grows_as_dilation_says_and_no_change_is_a_radius_off() -> None:
    """The surfaces of balls of radii 6 and 10 voxels of 2 mm are 8 mm apart."""
    found = judge(ball(6), ball(10), in_order_of(ball(6)))
    still, dilated = found.values[Method.NO_CHANGE], found.values[Method.DILATION]
    assert still["hd95_mm"] == pytest.approx(8.0, abs=1.0)
    assert still["surface_mm"] == pytest.approx(8.0, abs=0.5)
    assert still["dice"] == pytest.approx(2 * 6**3 / (6**3 + 10**3), abs=0.01)
    assert still["recall_new_slices"] == 0.0 and "coverage_plan" not in still
    assert dilated["ap"] > 0.9 and dilated["dice"] > 0.97 and dilated["hd95_mm"] <= 2.0
    assert (dilated["hd95_mm_expected"], dilated["dice_expected"]) == (still["hd95_mm"], still["dice"])
    assert "brier" not in dilated


def test_voxels_alike_flatter_nobody() -> None:
    """A constant order has for its AP the share of new tumour, for its coverage that of the plan in the brain."""
    before, after = ball(3), ball(5)
    flat = VolumeMap(np.zeros(SHAPE), np.full(SHAPE, 0.5, np.float32))
    found = judge(before, after, flat).values[Method.PRODUCT]
    candidates = ball(18) & ~before
    share = (after & ~before).sum() / candidates.sum()
    assert found["ap"] == pytest.approx(share)
    assert found["ece"] == pytest.approx(0.5 - share)
    assert found["brier"] == 0.25
    plan = judge(before, after, flat).values[Method.DILATION]["coverage_plan"]
    assert plan == 1.0  # 4 mm of growth, a margin of 15
    outside = first_voxels(np.zeros(SHAPE), 1000)
    halves = outside[:20].sum(), outside[20:].sum()
    assert outside.sum() == 1000 and min(halves) > 400  # not the first that are stored


def test_a_plan_holds_all_none_or_part_of_what_is_new() -> None:
    """A margin of 15 mm holds new tumour within 7.5 voxels of the surface: all of one spot, none of another."""
    before, near, far = ball(4), ball(2, (20, 24, 31)), ball(2, (20, 24, 40))
    away = VolumeMap(np.where(near, 2.0, np.where(before, 0.0, 1.0)), np.zeros(SHAPE, np.float32))
    for after, share in (
        (before | near, 1.0),
        (before | far, 0.0),
        (before | near | far, near.sum() / (2 * far.sum())),
    ):
        found = judge(before, after, in_order_of(after))
        assert found.values[Method.DILATION]["coverage_plan"] == pytest.approx(share)
        assert found.values[Method.PRODUCT]["coverage_plan"] == 1.0
    assert judge(before, before | near, away).values[Method.PRODUCT]["coverage_plan"] == 0.0


def test_a_tumour_that_shrinks_has_outlines_and_no_order_of_what_is_new() -> None:
    found = judge(ball(9), ball(6), in_order_of(ball(6)))
    for values in found.values.values():
        assert all(np.isnan(values[name]) for name in ("ap", "ap_seen_slices", "ap_new_slices", "recall_new_slices"))
    assert np.isnan(found.facts.share_in_new_slices) and found.facts.new_mm3 == 0
    eroded, still = found.values[Method.DILATION], found.values[Method.NO_CHANGE]
    assert eroded["dice"] > 0.97 and eroded["hd95_mm"] <= 2.0
    assert still["hd95_mm"] == pytest.approx(6.0, abs=0.5)
    gone = judge(ball(9), ball(0), in_order_of(ball(0)))
    for method in (Method.DILATION, Method.NO_CHANGE):  # an outline of no voxels is right for whoever asks
        assert np.isnan(gone.values[method]["dice"]) and np.isnan(gone.values[method]["hd95_mm"])
    assert np.isnan(gone.values[Method.PRODUCT]["expected_share"])


def test_the_front_follows_the_brain_and_then_the_distance() -> None:
    followup = VolumeFollowUp.of(scan(ball(4)), scan(ball(6)))
    ratios = np.array([2.0, 4.0])
    ((method, found),) = volume_baselines(followup, tuple(Contrast), ratios, [Baseline.FISHER_KOLMOGOROV])
    assert method is Method.FISHER_KOLMOGOROV
    assert np.array_equal(np.isfinite(found.order), followup.brain)
    assert (found.order[followup.before] < 0).all() and (found.order[followup.candidates] > 0).all()
    assert found.probability is not None
    assert found.probability.sum() == pytest.approx(3 * ball(4).sum(), rel=0.05)


def test_a_segmenter_of_slices_sees_planes_of_its_own_voxels_alone() -> None:
    segmenter = PlaneSegmenter(FakeEngine(model_info(image_size=128)), 4)
    assert segmenter.why_not(tuple(Contrast), 2.0) is None
    assert segmenter.why_not(tuple(Contrast), 4.0) == "the model's pixels are of 2 mm, and the volumes' voxels of 4 mm"
    assert segmenter.why_not(tuple(Contrast)[:1], 2.0) == "the model takes t1n, t1c, t2w, t2f"
    seen = segmenter.probability(scan(ball(5)))
    assert np.array_equal(seen > 0.5, ball(5))
    smaller = PlaneSegmenter(FakeEngine(model_info(image_size=32)), 4).probability(scan(ball(18)))
    assert smaller.shape == SHAPE and not smaller[:, :8].any() and smaller[:, 8:40, 8:40].any()
    found = judge(ball(5), ball(7), in_order_of(ball(7)), baselines=tuple(Baseline), segmenter=segmenter)
    assert set(found.values) == {
        Method.PRODUCT,
        Method.NO_CHANGE,
        Method.DILATION,
        Method.FISHER_KOLMOGOROV,
        Method.SEGMENTER_DISTANCE,
    }
    assert found.values[Method.SEGMENTER_DISTANCE]["dice"] > 0.97


def test_scans_that_cannot_be_compared_are_refused() -> None:
    moved = replace(scan(ball(5)), affine=AFFINE + 0.5)
    with pytest.raises(InputError, match=r"40 x 48 x 48 voxels.*--voxel-mm"):
        VolumeFollowUp.of(scan(ball(5)), moved)
    with pytest.raises(InputError, match="no tumour"):
        VolumeFollowUp.of(scan(ball(0)), scan(ball(5)))


# Archives of volumes


def session(patient_id: str, number: int, day: float, tumour: np.ndarray, *, keeps_volume: bool = True) -> Session:
    """A scan with one slice, through the middle, and its volume."""
    volume = scan(tumour)
    padded = ((8, 8), (8, 8))
    images = np.pad(volume.images[:, 20] / 127.5 - 1, ((0, 0), *padded), constant_values=-1).astype(np.float32)
    labels, brain = (np.pad(one[20], padded) for one in (volume.labels, volume.brain))
    return Session(
        patient_id=patient_id,
        session_id=f"{number:03d}",
        day=day,
        contrasts=tuple(Contrast),
        images=images[None],
        labels=labels[None],
        brain=brain[None],
        area_mm2=np.array([labels.astype(bool).sum() * 4.0]),
        brain_mm2=np.array([brain.sum() * 4.0]),
        source_slice=np.array([20]),
        affine=AFFINE,
        volume_mm3=volume.volume_mm3,
        source={"grid": {"size": [48, 48, 40]}},
        volume=volume if keeps_volume else None,
    )


def write_sessions(path: Path, sessions: list[Session]) -> Path:
    write_cohort(path, sessions, {}, image_size=64, contrasts=tuple(Contrast), config={})
    return path


def told_of(before: np.ndarray, afters: list[np.ndarray], days: list[float]) -> VolumeForecast:
    """A forecast that knows what comes at each horizon."""
    present = scan(before)
    growth = np.stack(afters).astype(np.float16)
    return VolumeForecast(
        image=present.images,
        labels=present.labels,
        brain=present.brain.astype(np.uint8),
        affine=AFFINE,
        growth=growth,
        log_volume=np.where(present.brain, -growth.sum(axis=0), np.inf).astype(np.float16),
        horizon_days=np.array(days),
        target_ratio=np.array([[after.sum() / before.sum()] for after in afters]),
        expected_mm3=growth.sum(axis=(1, 2, 3), dtype=np.float64) * MM**3,
        present_mm3=present.volume_mm3,
        model="front",
    )


def write_volumes_archive(path: Path, forecasts: dict[str, VolumeForecast]) -> Path:
    """An archive of volumes alone, forecast from session 000 of day 0."""
    shards = []
    for name, forecast in forecasts.items():
        shard, key = path.parent / "parts" / f"{name}.h5", ShardKey("run", name)
        write_shard(shard, key, PatientForecast(name, "000", 0.0, None, None, None, {}), {}, forecast)
        shards.append(PatientShards(name, {}, (shard, key)))
    told = {"contrasts": [str(name) for name in Contrast], "settings": {}}
    merge(path, shards, told, [PatientOutcome(name, Status.OK) for name in forecasts])
    return path


def evaluated(maps: Path, truth: Path) -> VolumeEvaluation:
    with MapArchive.open(maps) as archive, Cohort.open(truth) as cohort:
        return VolumeEvaluator(archive, cohort, EvaluationSettings()).evaluate(lambda done, total: None)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """A grows by day 60 and 120, B shrinks, C's later scan has no volume, D's has another grid."""
    sessions = [session("A", k, 60.0 * k, ball(5 + k)) for k in range(3)]
    sessions += [session("B", k, 60.0 * k, ball(6 - k)) for k in range(2)]
    sessions += [session("C", k, 60.0 * k, ball(5), keeps_volume=k == 0) for k in range(2)]
    sessions += [session("D", k, 60.0 * k, ball(5)) for k in range(2)]
    moved = replace(scan(ball(5)), affine=AFFINE + 0.5)
    return write_sessions(tmp_path / "truth.h5", [*sessions[:-1], replace(sessions[-1], volume=moved)])


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Of A and B at days 60 and 120, and of the others whose truth cannot be had."""
    grown, shrunk = [ball(6), ball(7)], [ball(5), ball(4)]
    days = [60.0, 120.0]
    forecasts = {"A": told_of(ball(5), grown, days), "B": told_of(ball(6), shrunk, days)}
    return write_volumes_archive(
        tmp_path / "maps.h5", forecasts | {name: told_of(ball(5), grown, days) for name in "CDE"}
    )


def test_each_volume_is_judged_by_the_scan_next_to_a_horizon(maps: Path, truth: Path) -> None:
    found = evaluated(maps, truth)
    taken = [(one.patient_id, one.horizon_days, one.later_session, one.days_off) for one in found.patients]
    assert taken == [("A", 60.0, "001", 0.0), ("B", 60.0, "001", 0.0)]
    assert [one.status for one in found.outcomes] == [Status.OK] * 2 + [Status.SKIPPED, Status.FAILED, Status.SKIPPED]
    reasons = [one.reason for one in found.outcomes[2:]]
    assert "keeps no volume of session 001; prepare it with --voxel-mm 2" in reasons[0]
    assert "different grids" in reasons[1] and "not in " in reasons[2]
    assert found.notes == [
        "Without new tumour, and so without AP, recall or coverage; the other figures are of them too: 1 patient, B.",
        "Segmenter + distance was not made: it needs `--model`.",
    ]
    right = found.patients[0].scores.values[Method.PRODUCT]
    assert (right["ap"], right["dice"], right["dice_half"], right["hd95_mm"]) == (1.0, 1.0, 1.0, 0.0)


def test_the_horizon_is_the_one_with_a_scan_next_to_it(truth: Path) -> None:
    patient = PatientForecast("A", "000", 0.0, None, None, None, {})
    with Cohort.open(truth) as cohort:

        def taken(*days: float) -> tuple[int, str]:
            forecast = told_of(ball(5), [ball(6)] * len(days), list(days))
            found = judged_horizon(cohort, patient, forecast, 45.0)
            return found.number, found.later.session.id

        assert taken(20.0, 115.0) == (1, "002")
        assert taken(60.0, 115.0) == (0, "001")
        assert taken(np.nan) == (0, "001")
        with pytest.raises(NoTruthError, match="days off"):
            taken(400.0, 500.0)


def test_what_is_written_of_volumes(maps: Path, truth: Path, tmp_path: Path) -> None:
    evaluation = evaluated(maps, truth)
    summaries = write_volumes(tmp_path / "found", evaluation)
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"volumes.json", "volumes.md", "volumes.csv"}
    assert PlanCoverage("product", 1, 0, 1) in summaries.coverage
    lines = list(csv.DictReader((tmp_path / "found" / "volumes.csv").read_text(encoding="utf-8").splitlines()))
    methods = ["product", "no_change", "dilation", "fisher_kolmogorov"]
    assert [(line["patient_id"], line["method"]) for line in lines] == [(p, m) for p in "AB" for m in methods]
    assert (lines[0]["ap"], lines[4]["ap"], lines[1]["brier"]) == ("1.0", "", "")
    told = json.loads((tmp_path / "found" / "volumes.json").read_text(encoding="utf-8"))
    assert told["methods"][0]["means"]["ap"] == {"value": 1.0, "low": None, "high": None, "patients": 1}
    assert told["methods"][1]["differences"]["hd95_mm"]["estimate"]["value"] < 0
    assert told["patients"][1]["methods"]["product"]["ap"] is None
    page = (tmp_path / "found" / "volumes.md").read_text(encoding="utf-8")
    assert "2 patients judged, the tumour smaller later in 1 of them" in page and "nan" not in page
    assert "✔" not in page.split("is better, ✘")[1]  # two patients prove nothing
    assert "2 skipped, 1 failed" in page


def test_coverage_counts_patients_at_nothing_and_at_all() -> None:
    before, near, far = ball(4), ball(2, (20, 24, 31)), ball(2, (20, 24, 40))
    patients = [
        PatientVolume(name, "000", "001", None, 60.0, None, "front", judge(before, after, in_order_of(after)))
        for name, after in (("A", before | near), ("B", before | far), ("C", before | near | far), ("D", before))
    ]
    told = {one.method: one for one in VolumeSummaries.of(patients).coverage}
    assert told["dilation"] == PlanCoverage("dilation", 3, 1, 1)
    assert told["product"] == PlanCoverage("product", 3, 0, 3)


def run(*words: object) -> dict[str, dict[str, object]]:
    """The object that a command prints with --json."""
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout.splitlines()[-1])


def test_maps_alone_from_forecast_to_tables(tmp_path: Path) -> None:
    """What no slice and no model is needed for, as a user does it."""
    past = write_sessions(tmp_path / "past.h5", [session(name, 0, 0.0, ball(5)) for name in "AB"])
    later = [session(name, k, 60.0 * k, ball(5 + k)) for name in "AB" for k in range(2)]
    truth = write_sessions(tmp_path / "truth.h5", later)
    asked = ("--maps-only", "--place", "front", "--relative-change", "0.4", "--members", "2")
    run("forecast", past, *asked, "--out", tmp_path / "maps.h5")
    told = run("evaluate", tmp_path / "maps.h5", "--truth", truth, "--out", tmp_path / "found")
    assert set(told) == {"out", "volumes"}
    assert told["volumes"]["patients"] == {"ok": 2, "failed": 0, "skipped": 0}
    figures = told["volumes"]["methods"]
    assert set(figures) == {"product", "no_change", "dilation", "fisher_kolmogorov"}
    assert figures["product"]["hd95_mm"] < figures["no_change"]["hd95_mm"]
    assert figures["product"]["ap"] == pytest.approx(figures["fisher_kolmogorov"]["ap"], abs=0.02)  # of 16 bits
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"volumes.json", "volumes.md", "volumes.csv"}
    result = CliRunner().invoke(
        app, ["evaluate", str(tmp_path / "maps.h5"), "--truth", str(past), "--out", str(tmp_path / "none")]
    )
    assert isinstance(result.exception, InputError) and "no patient could be judged" in str(result.exception)


def test_a_size_that_is_held_is_told_by_the_forecast_and_in_its_table(tmp_path: Path) -> None:
    past = write_sessions(tmp_path / "past.h5", [session("A", 0, 0.0, ball(5)), session("B", 0, 0.0, ball(12))])
    asked = ["--maps-only", "--relative-change", "0.8", "--members", "2", "--out", str(tmp_path / "maps.h5")]
    done = CliRunner().invoke(app, ["forecast", str(past), *asked])
    told = "for the change asked for: every member aims at the most that is allowed, half of the brain"
    assert (done.exit_code, done.stderr.count(told)) == (0, 1) and f"B: ok: {told}" in done.stderr
    table = (tmp_path / "maps.status.tsv").read_text(encoding="utf-8")
    assert "A\tok\t\n" in table and f"B\tok\t{told}\n" in table


@pytest.mark.slow
def test_slices_and_volumes_of_one_archive(random_bundle: Path, tmp_path: Path) -> None:
    past = write_sessions(tmp_path / "past.h5", [session("A", 0, 0.0, ball(5))])
    truth = write_sessions(tmp_path / "truth.h5", [session("A", k, 60.0 * k, ball(5 + k)) for k in range(2)])
    model = ("--model", str(random_bundle))
    asked = ("--place", "front", "--relative-change", "0.4", "--members", "2", "--steps", "2", "--max-slices", "1")
    run("forecast", past, *model, *asked, "--out", tmp_path / "maps.h5")
    words = ["evaluate", str(tmp_path / "maps.h5"), "--truth", str(truth), "--out", str(tmp_path / "found")]
    result = CliRunner().invoke(app, [*words, *model, "--members", "1", "--json"])
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["slices"], told["volumes"]["patients"]["ok"]) == (1, 1)
    assert "unguided_change" in told["methods"] and "segmenter_distance" not in told["volumes"]["methods"]
    assert "the model's pixels are of 4 mm, and the volumes' voxels of 2 mm" in result.stderr
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert {"evaluation.md", "rows.csv", "volumes.md", "volumes.csv", "volumes.json"} <= names
