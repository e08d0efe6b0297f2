"""Reader studies: what a reader gets and does not get, and scores against hand computation and scikit-learn."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from typer.testing import CliRunner

from tests.archive.conftest import images_of, patient_of, slice_of
from tumorcast.archive.maps import SliceForecast, VolumeForecast
from tumorcast.archive.merge import PatientShards, merge
from tumorcast.archive.shard import ShardKey, write_shard
from tumorcast.cli.reader_study import reader_study
from tumorcast.data.cohort import write_cohort
from tumorcast.durable import sha256_of
from tumorcast.errors import InputError, UsageError
from tumorcast.records import Contrast, PatientOutcome, Session, Status
from tumorcast.report.reader_study import (
    cohen_kappa,
    fleiss_kappa,
    make_study,
    picture,
    reader_figures,
    score_study,
)

SLICES = {"Anna": (10, 11), "Berta": (11, 12, 30), "Clara": (10, 11)}  # of the archive; Clara has no later scan
Answers = list[tuple[str, int]]
Blob = Callable[..., Session]


def forecast_of(number: int, affine: Any, *, keep: bool) -> SliceForecast:
    members = images_of(number, 3, 64)
    brain = np.hypot(*(np.mgrid[:64, :64] - 32)) < 20
    return replace(slice_of(members, number, keep=keep), brain=brain, affine=affine)


def write_maps(path: Path, affine: Any, *, keep: bool = True) -> Path:
    shards = []
    for name, numbers in SLICES.items():
        slices = {f"{number:04d}": forecast_of(number, affine, keep=keep) for number in numbers}
        shard, key = path.with_suffix(".parts") / f"{name}.h5", ShardKey("run", f"{name}/0000.000")
        write_shard(shard, key, replace(patient_of(name), day=0.0), slices)
        shards.append(PatientShards(name, {number: [(shard, key)] for number in slices}))
    outcomes = [PatientOutcome(name, Status.OK) for name in SLICES]
    merge(path, shards, {"contrasts": [str(name) for name in Contrast]}, outcomes)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tests share and do not change: files made once, since HDF5 takes most of the time."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def truth(blob: Blob, folder: Path) -> Path:
    """Scans of day 0, 30 and 90; the forecast was for day 35."""
    sessions = [
        blob(name, f"{day:03d}", float(day), 4.0 + day / 30) for name in ("Anna", "Berta") for day in (0, 30, 90)
    ]
    sessions.append(blob("Clara", "000", 0.0, 4.0))
    write_cohort(folder / "truth.h5", sessions, {}, image_size=64, contrasts=tuple(Contrast), config={})
    return folder / "truth.h5"


@pytest.fixture(scope="module")
def maps(folder: Path, blob: Blob) -> Path:
    return write_maps(folder / "maps.h5", blob("Anna", "000", 0.0, 4.0).affine)


def key_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "key.json").read_text())
    return found


def cells_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def fill(out: Path, name: str, answers: Answers) -> Path:
    """A sheet as a reader returns it."""
    rows = cells_of(out / "set" / "sheet.csv")
    for row, (answer, confidence) in zip(rows[1:], answers, strict=True):
        row[1:4] = answer, str(confidence), "blurred, I think"
    path = out.parent / name
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_pictures_are_matched_real_and_generated_slices(maps: Path, truth: Path, tmp_path: Path, blob: Blob) -> None:
    out = tmp_path / "study"
    made = make_study(maps, truth, out, seed=3, count=8)
    items = key_of(out)["items"]
    assert (made["pictures"], made["pairs"], made["patients"]) == (8, 4, 2)
    shown = {
        origin: {(i["patient_id"], i["source_slice"]) for i in items if i["origin"] == origin}
        for origin in ("real", "generated")
    }
    assert shown["real"] == shown["generated"] == {("Anna", 10), ("Anna", 11), ("Berta", 11), ("Berta", 12)}
    for item in items:
        drawn = imread(out / "set" / f"{item['number']:03d}.png")[..., 0]
        if item["origin"] == "real":
            assert item["session_id"] == "030"  # nearer to day 35 than day 90 is
            scan = blob("Anna", "", 0.0, 5.0)
            wanted = picture(scan.images[0], scan.brain[0])
        else:
            forecast = forecast_of(item["source_slice"], np.eye(4), keep=True)
            assert forecast.members is not None
            wanted = picture(forecast.members[int(item["image"].removeprefix("member "))], forecast.brain)
        np.testing.assert_allclose(drawn, wanted, atol=2 / 255)  # 256 grey levels
        assert drawn.shape == (384, 4 * 384)


def test_the_set_tells_nothing_and_is_bound_to_its_key(maps: Path, truth: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    make_study(maps, truth, out, seed=3, count=8)
    files = sorted((out / "set").iterdir())
    assert [path.name for path in files] == [*(f"{k:03d}.png" for k in range(1, 9)), "README.txt", "sheet.csv"]
    assert not any(name.encode() in path.read_bytes() for path in files for name in (*SLICES, "maps.h5", "salt"))
    header, *rows = cells_of(out / "set" / "sheet.csv")
    assert header == ["number", "real_or_generated", "confidence", "comment", "key_sha256"]
    assert rows == [[str(k), "", "", "", sha256_of(out / "key.json")] for k in range(1, 9)]
    assert [item["sha256"] for item in key_of(out)["items"]] == [sha256_of(path) for path in files[:8]]


def test_one_seed_makes_one_set_and_keys_that_cannot_be_guessed(maps: Path, truth: Path, tmp_path: Path) -> None:
    keys = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_study(maps, truth, tmp_path / name, seed=seed, count=8)
        keys.append(key_of(tmp_path / name))
    assert keys[0]["items"] == keys[1]["items"] != keys[2]["items"]
    assert keys[0]["salt"] != keys[1]["salt"] and len(keys[0]["salt"]) == 64


def test_slices_without_a_fellow_fill_up(maps: Path, truth: Path, tmp_path: Path) -> None:
    made = make_study(maps, truth, tmp_path / "study", seed=0, count=12)
    items = key_of(tmp_path / "study")["items"]
    assert made["pairs"] == 4
    real = sorted((i["patient_id"], i["source_slice"]) for i in items if i["origin"] == "real")
    assert real == [("Anna", 10), ("Anna", 11), ("Anna", 12), ("Berta", 10), ("Berta", 11), ("Berta", 12)]
    assert len({(i["patient_id"], i["source_slice"]) for i in items if i["origin"] == "generated"}) == 6


def test_scans_on_another_grid_are_not_paired(truth: Path, tmp_path: Path, blob: Blob) -> None:
    moved = blob("Anna", "000", 0.0, 4.0).affine.copy()
    moved[2, 3] += 2.5  # half a slice
    maps = write_maps(tmp_path / "maps.h5", moved)
    assert make_study(maps, truth, tmp_path / "study", seed=0, count=6)["pairs"] == 0


def test_without_members_the_mean_is_shown_and_said(
    truth: Path, tmp_path: Path, blob: Blob, caplog: pytest.LogCaptureFixture
) -> None:
    maps = write_maps(tmp_path / "maps.h5", blob("Anna", "000", 0.0, 4.0).affine, keep=False)
    make_study(maps, truth, tmp_path / "study", seed=0, count=4)
    assert {item["image"] for item in key_of(tmp_path / "study")["items"]} == {"mean", "scan"}
    assert "--keep-members" in caplog.text


def test_what_cannot_be_made_is_refused_and_leaves_nothing(maps: Path, truth: Path, tmp_path: Path, blob: Blob) -> None:
    out = tmp_path / "study"
    with pytest.raises(UsageError, match="--count 7: half"):
        make_study(maps, truth, out, seed=0, count=7)
    with pytest.raises(InputError, match="--count 12"):
        make_study(maps, truth, out, seed=0, count=60)
    others = {
        "no scan is later": ([blob("Anna", "000", 0.0, 4.0)], 4),
        "has no patient of": ([blob("Dora", "000", 9.0, 4.0)], 4),
        "has t1n, but": ([blob("Anna", "000", 9.0, 4.0, 1)], 1),
    }
    for message, (sessions, contrasts) in others.items():
        write_cohort(
            tmp_path / "other.h5", sessions, {}, image_size=64, contrasts=tuple(Contrast)[:contrasts], config={}
        )
        with pytest.raises(InputError, match=message):
            make_study(maps, tmp_path / "other.h5", out, seed=0, count=4)
    assert not out.exists()
    make_study(maps, truth, out, seed=0, count=4)
    with pytest.raises(UsageError, match="not an empty folder"):
        make_study(maps, truth, out, seed=0, count=4)


@pytest.fixture(scope="module")
def made(maps: Path, truth: Path, folder: Path) -> Path:
    make_study(maps, truth, folder / "study", seed=5, count=8)
    return folder / "study"


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A study of a test's own."""
    return shutil.copytree(made, tmp_path / "study")


def right_answers(study: Path) -> Answers:
    return [(item["origin"], 5) for item in key_of(study)["items"]]


def turned(answers: Answers, places: list[int]) -> Answers:
    other = {"real": "generated", "generated": "real"}
    return [(other[a] if k in places else a, c) for k, (a, c) in enumerate(answers)]


def test_figures_are_those_computed_by_hand(study: Path) -> None:
    right = right_answers(study)
    real = [k for k, (origin, _) in enumerate(right) if origin == "real"]
    sheet = fill(study, "ada.csv", turned(right, real[:2]))
    (ada,) = score_study(study / "key.json", [sheet])["readers"]
    assert (ada["accuracy"], ada["sensitivity"], ada["specificity"]) == (0.75, 1.0, 0.5)
    z, n, p = 1.959964, 8, 0.75  # Wilson 1927
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    np.testing.assert_allclose(ada["accuracy_95"], [centre - half, centre + half], rtol=1e-6)
    assert ada["auc"] == 0.75  # 4 x 2 pairs in order, 4 x 2 tied


def test_auc_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    generated, said, sure = rng.random(40) < 0.5, rng.random(40) < 0.5, rng.integers(1, 6, 40)
    reading = type("Reading", (), {"generated": said, "confidence": sure})
    wanted = roc_auc_score(generated, np.where(said, sure, -sure))
    assert reader_figures(reading, generated)["auc"] == pytest.approx(wanted)  # type: ignore[arg-type]


def test_agreement_of_two_is_scikit_learns_and_of_three_that_of_hand() -> None:
    rng = np.random.default_rng(1)
    answers = rng.random((2, 50)) < [[0.3], [0.6]]
    assert cohen_kappa(answers) == pytest.approx(cohen_kappa_score(*answers))
    # Said "generated" by 3, 2, 1, 0 of 3: P = 1, 1/3, 1/3, 1, mean 2/3; half of the answers are so: by chance 1/2.
    three = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], bool)
    assert fleiss_kappa(three) == pytest.approx(1 / 3)
    assert cohen_kappa(np.ones((2, 4), bool)) is fleiss_kappa(np.ones((3, 4), bool)) is None


def test_agreement_is_named_by_the_number_of_readers(study: Path) -> None:
    right = right_answers(study)
    sheets = [fill(study, f"{k}.csv", turned(right, list(range(k)))) for k in range(3)]
    one, two, three = (score_study(study / "key.json", sheets[:count])["agreement"] for count in (1, 2, 3))
    assert one is None
    assert two["name"] == "cohen_kappa" and 0.5 < two["kappa"] < 1
    assert three["name"] == "fleiss_kappa" and 0.5 < three["kappa"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], "2 of 8 pictures without a row \\(7, 8\\)"),
        (lambda rows: [*rows, rows[-1]], "line 10: picture 8 has a row already"),
        (lambda rows: [*rows[:-1], ["9", *rows[-1][1:]]], "line 9: 'number' is '9', not a whole number from 1 to 8"),
        (lambda rows: [*rows[:-1], [rows[-1][0], "fake", *rows[-1][2:]]], "'fake'; give real or generated"),
        (lambda rows: [*rows[:-1], [rows[-1][0], "", *rows[-1][2:]]], "'real_or_generated' is empty"),
        (lambda rows: [*rows[:-1], [*rows[-1][:2], "6", *rows[-1][3:]]], "'6', not a whole number from 1 to 5"),
        (lambda rows: [*rows[:-1], [*rows[-1][:2], "2.5", *rows[-1][3:]]], "'2.5', not a whole number"),
        (lambda rows: [*rows[:-1], [*rows[-1][:4], "0" * 64]], "sealed with key 000000000000…"),
        (lambda rows: [row[:4] for row in rows], "no column 'key_sha256'"),
    ],
)
def test_a_faulty_sheet_is_refused_by_name(study: Path, change: Callable[[Any], Any], message: str) -> None:
    path = fill(study, "ada.csv", right_answers(study))
    rows = cells_of(path)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(change(rows))
    with pytest.raises(InputError, match=message) as refusal:
        score_study(study / "key.json", [path])
    assert str(path) in str(refusal.value)


def test_a_key_that_was_changed_does_not_belong_to_the_sheets(study: Path) -> None:
    sheet, key = fill(study, "ada.csv", right_answers(study)), study / "key.json"
    key.write_text(key.read_text().replace('"real"', '"generated"', 1))
    with pytest.raises(InputError, match="sealed with key"):
        score_study(key, [sheet])
    key.write_text("{}")
    with pytest.raises(InputError, match="not the key"):
        score_study(key, [sheet])
    with pytest.raises(InputError, match="cannot be read"):
        score_study(study / "none.json", [sheet])


def test_the_commands_print_their_figures(maps: Path, truth: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(reader_study, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    out = tmp_path / "study"
    made = json.loads(run("make", maps, "--truth", truth, "--out", out, "--seed", 1, "--count", 4, "--json"))
    assert made["key_sha256"] == sha256_of(out / "key.json")
    sheets = [fill(out, name, right_answers(out)) for name in ("ada.csv", "bob.csv")]
    scored = json.loads(run("score", out / "key.json", *sheets, "--json"))
    assert [reader["accuracy"] for reader in scored["readers"]] == [1.0, 1.0]
    assert scored["agreement"] == {"name": "cohen_kappa", "kappa": 1.0}
    assert "accuracy 1.00 (0.51 to 1.00)" in run("score", out / "key.json", sheets[0])
    result = CliRunner().invoke(reader_study, ["score", str(out / "key.json"), str(sheets[0]), str(sheets[0])])
    assert isinstance(result.exception, UsageError)


def test_growth_maps_alone_have_nothing_to_show(truth: Path, foretold: VolumeForecast, tmp_path: Path) -> None:
    shard, key = tmp_path / "shard.h5", ShardKey("run", "Anna/volume")
    write_shard(shard, key, replace(patient_of("Anna"), day=0.0), {}, foretold)
    told = {"contrasts": [str(name) for name in Contrast]}
    merge(tmp_path / "maps.h5", [PatientShards("Anna", {}, (shard, key))], told, [PatientOutcome("Anna", Status.OK)])
    with pytest.raises(InputError, match=r"holds growth maps alone, .* forecast without --maps-only"):
        make_study(tmp_path / "maps.h5", truth, tmp_path / "study", count=2, seed=0)
