"""fit-place on tiny volumes whose growth can be foretold: who wins, what is written and refused; then forecasts."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.leads import T1C, led_pair, session_of, write_led_cohort
from tumorcast.archive.maps import MapArchive
from tumorcast.arrival.field import FrontArrival
from tumorcast.cli.main import app
from tumorcast.data.cohort import write_cohort
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.fit_place import FitPlaceSettings, fit_place, winner_of
from tumorcast.evaluation.metrics import AP
from tumorcast.evaluation.place_scores import METRICS, PlaceComparison
from tumorcast.forecasting.place import FRONT, open_place
from tumorcast.forecasting.place_folder import PLACE_FILE, Candidate, PlaceFolder

pytestmark = pytest.mark.slow
PATIENTS = ("L0", "L1", "L2", "L3")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients with a pair of scans, and one with a single scan."""
    return write_led_cohort(tmp_path_factory.mktemp("led") / "cohort.h5", 4, alone=1)


@pytest.fixture(scope="module")
def placed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fit-place made of it."""
    out = tmp_path_factory.mktemp("place") / "place"
    result = fit_place(cohort, out, FitPlaceSettings(), tell=lambda _: None)
    assert result.winner is Candidate.VOXEL
    return out


def run(*arguments: object) -> tuple[int, str, dict[str, object]]:
    """Exit code, stderr and the object on the last line of stdout."""
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "{}"
    return done.exit_code, done.stderr, json.loads(last) if last.startswith("{") else {}


def test_the_models_that_have_not_seen_a_patient_are_kept(placed: Path) -> None:
    found = PlaceFolder.read(placed)
    assert found.fitted_to == PATIENTS
    assert [fold.patients for fold in found.folds] == [(name,) for name in PATIENTS]
    sums = {fold.model.sha256 for fold in found.folds} | {found.final.sha256}
    assert len(sums) == 5
    compared = found.comparison
    assert (compared["winner"], compared["patients"], compared["pairs"]) == ("voxel", list(PATIENTS), [1] * 4)
    assert set(compared["values"]) == {"dilation", "front", "voxel"}
    gain = compared["less_front"]["voxel"]["ap"]["estimate"]
    assert gain["low"] > 0 and gain["value"] == pytest.approx(
        np.mean(np.subtract(compared["values"]["voxel"]["ap"], compared["values"]["front"]["ap"]))
    )
    assert compared["made_of"]["cohort"]["sha256"] and compared["made_of"]["folds"] == 4


def test_forecasts_by_models_that_have_not_seen_the_patient(
    cohort: Path, placed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = ("--maps-only", "--relative-change", "0.5", "--members", "2", "--json")
    maps = {}
    for name, options in {"left-out": ("--left-out",), "final": ()}.items():
        maps[name] = tmp_path / f"{name}.h5"
        with caplog.at_level(logging.WARNING):
            code, _, _ = run("forecast", cohort, "--place", placed, *options, *told, "--out", maps[name])
        assert code == 0
    notes = [record.getMessage() for record in caplog.records]
    assert any("L4: left out of no model" in note for note in notes)
    assert any("has learned from L0, L1, L2 and 1 more, who are forecast here" in note for note in notes)
    with MapArchive.open(maps["left-out"]) as left_out, MapArchive.open(maps["final"]) as final:
        assert left_out.provenance["place"]["name"] == "voxel model, patients left out"
        assert left_out.provenance["place"]["sha256"] != final.provenance["place"]["sha256"]
        for name in (*PATIENTS, "L4"):
            one, two = left_out.volume(name), final.volume(name)
            assert one is not None and two is not None
            assert np.array_equal(one.growth, two.growth) == (name == "L4")


def test_before_the_last_scan_that_scan_is_not_looked_at(cohort: Path, placed: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps.h5"
    told = ("--maps-only", "--relative-change", "0.5", "--left-out", "--before-last-scan", "--json")
    code, said, result = run("forecast", cohort, "--place", placed, *told, "--out", maps)
    assert (code, result["patients"]) == (1, {"ok": 4, "failed": 1, "skipped": 0})
    assert "L4: has one scan, and so none before its last to forecast from" in said
    with MapArchive.open(maps) as archive:
        assert archive.provenance["before_last_scan"] is True
        assert [patient.session_id for patient in archive.patients()] == ["000"] * 4
    with pytest.raises(UsageError, match="before_last_scan = True there"):  # the same but for it: another forecast
        run("forecast", cohort, "--place", placed, *told[:4], *told[5:], "--out", maps)
    code, _, judged = run("evaluate", maps, "--truth", cohort, "--out", tmp_path / "judged", "--json")
    assert code == 0 and judged["volumes"]["patients"] == {"ok": 4, "failed": 0, "skipped": 0}


def test_a_place_is_opened_as_it_is_named(placed: Path, tmp_path: Path) -> None:
    assert open_place(Path(FRONT)).record() == {"name": "front", "sha256": "front"}
    final = open_place(placed)
    assert (final.model.name, final.left_out, final.fitted_to) == ("voxel model", {}, frozenset(PATIENTS))
    assert open_place(placed / "final" / "voxel.json").model.sha256 == final.model.sha256
    with pytest.raises(UsageError, match="is no folder of `tumorcast fit-place`"):
        open_place(Path(FRONT), left_out=True)
    (tmp_path / PLACE_FILE).write_text((placed / PLACE_FILE).read_text().replace('"tumorcast-place"', '"x"'))
    with pytest.raises(InputError, match="not of this version"):
        open_place(tmp_path)


def test_a_model_that_was_exchanged_is_refused(placed: Path, tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / PLACE_FILE).write_text((placed / PLACE_FILE).read_text())
    (tmp_path / "final" / "voxel.json").write_text((placed / "folds" / "1" / "voxel.json").read_text())
    with pytest.raises(InputError, match=r"is not the model that place\.json names"):
        open_place(tmp_path)


def test_the_command_prints_a_table_and_takes_folds(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "place"
    code, said, found = run("fit-place", cohort, "--out", out, "--folds", "2", "--candidates", "voxel", "--json")
    assert code == 0
    assert "| voxel |" in said and "| dilation |" in said
    assert (found["winner"], found["patients"], found["pairs"]) == ("voxel", 4, 4)
    assert found["methods"]["voxel"]["ap"] > found["methods"]["front"]["ap"]
    folds = PlaceFolder.read(out).folds
    assert [fold.patients for fold in folds] == [("L0", "L2"), ("L1", "L3")]


def test_too_few_patients_are_refused(tmp_path: Path) -> None:
    few = write_led_cohort(tmp_path / "few.h5", 2, alone=3)
    with pytest.raises(InputError, match=r"2 of its patients have a pair .* 3 are the least"):
        fit_place(few, tmp_path / "out", FitPlaceSettings())
    flat = tmp_path / "flat.h5"
    sessions = [session_of("A", k, led_pair(0).present) for k in range(2)]
    bare = [type(one)(**{**vars(one), "volume": None}) for one in sessions]
    write_cohort(flat, bare, {}, image_size=64, contrasts=T1C, config={})
    with pytest.raises(InputError, match="keeps no volumes"):
        fit_place(flat, tmp_path / "out", FitPlaceSettings())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (FitPlaceSettings(folds=9), "--folds 9: give 2 to 4"),
        (FitPlaceSettings(candidates=(Candidate.NETWORK,)), "which one"),
        (FitPlaceSettings(candidates=(Candidate.FINE_TUNED,), start_from=Path("demo128")), "is no RUN folder"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    cohort: Path, tmp_path: Path, settings: FitPlaceSettings, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        fit_place(cohort, tmp_path / "out", settings)


def comparison(**means: float) -> PlaceComparison:
    """Of two patients alike."""
    values = {method: {metric.name: np.full(2, mean) for metric in METRICS} for method, mean in means.items()}
    return PlaceComparison(("A", "B"), (1, 1), values)


def test_of_those_nearly_alike_the_simplest_wins() -> None:
    every = tuple(Candidate)
    front, voxel, network, tuned = every
    means = {"front": 0.5, "voxel": 0.597, "network": 0.6, "fine-tuned": 0.601}
    assert winner_of(comparison(**means), every) is voxel
    assert winner_of(comparison(**means | {"fine-tuned": 0.62}), every) is tuned
    assert winner_of(comparison(**means | {"voxel": 0.59}), every) is network
    assert winner_of(comparison(**means | {"front": 0.7}), (front, voxel)) is front
    assert comparison(**means).less("voxel", "front", AP).estimate.value == pytest.approx(0.097)
    with pytest.raises(InputError, match="no pair of scans shows tumour where there was none"):
        winner_of(comparison(front=float("nan")), (front,))


def test_a_network_is_trained_for_each_fold_where_it_is_asked_for(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From fresh weights, a step: a network that answers the front, so that the front wins. Begun again, it goes on."""
    settings = FitPlaceSettings((Candidate.FINE_TUNED,), folds=2, steps=1)
    out = tmp_path / "place"
    assert fit_place(cohort, out, settings).winner is Candidate.FRONT
    runs = [out / "folds" / str(number) / "fine-tuned" for number in (1, 2)]
    left_out = [json.loads((run / "run.json").read_text())["provenance"]["settings"]["leave_out"] for run in runs]
    assert left_out == [["L0", "L2"], ["L1", "L3"]]
    assert open_place(out).model == FrontArrival()
    monkeypatch.setattr("tumorcast.evaluation.fit_place.winner_of", lambda *_: Candidate.FINE_TUNED)
    before = [(run / "weights.safetensors").stat().st_mtime_ns for run in runs]
    fit_place(cohort, out, settings)
    assert [(run / "weights.safetensors").stat().st_mtime_ns for run in runs] == before
    place = open_place(out, left_out=True)
    found = PlaceFolder.read(out)
    named = [found.folds[0].model, found.folds[1].model, found.final]
    assert [place.of(name).sha256 for name in ("L0", "L1", "L4")] == [one.sha256 for one in named]
    assert [one.path for one in named] == ["folds/1/fine-tuned", "folds/2/fine-tuned", "final/fine-tuned"]


def test_a_network_is_left_out_unasked_of_few_pairs(tmp_path: Path) -> None:
    from tumorcast.evaluation import fit_place as module

    told: list[str] = []
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    chosen = module._candidates(FitPlaceSettings(start_from=run), 4, told.append)
    assert chosen == (Candidate.FRONT, Candidate.VOXEL, Candidate.NETWORK)
    assert told == ["fine-tuned: left out, as 4 pairs of scans are fewer than 50; --candidates names it all the same"]
    assert module._candidates(FitPlaceSettings(start_from=run), 50, told.append) == tuple(Candidate)
    assert module._candidates(FitPlaceSettings(start_from=tmp_path), 50, told.append)[-1] is Candidate.NETWORK
    assert told[1].endswith("is no RUN folder, which training goes on from")
