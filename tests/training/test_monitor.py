"""What looks at a run: held-out patients, validation by band, the log, sheets, early warnings."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorcast.errors import InputError
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.arrays import open_arrays
from tumorcast.training.dataset import Pools, SlicePool, SliceStore, held_out
from tumorcast.training.job import Job
from tumorcast.training.log import opened_log, read_log
from tumorcast.training.monitor import GAP, RISES, SHEET_ROWS, WINDOW, DivergenceWatch, SheetColumn, Validation, mosaic
from tumorcast.training.networks import load_network
from tumorcast.training.train import train

TINY = {"channel_mult": (1,), "res_blocks": 1, "attention_resolutions": ()}
SETTINGS = TrainSettings(steps=4, batch=2, warmup_steps=1, validate_every=2, sheet_every=4, validation_share=0.2)
CPU = torch.device("cpu")


def test_the_share_held_out_depends_on_names_alone() -> None:
    names = [f"patient {k}" for k in range(2000)]
    chosen = held_out(names, 0.1)
    assert chosen.mean() == pytest.approx(0.1, abs=0.02)
    assert (held_out(names[::-1], 0.1)[::-1] == chosen).all()
    assert (held_out(names[500:], 0.1) == chosen[500:]).all()
    assert held_out(names[:10], 1e-9).sum() == 1
    assert not held_out(names[:9], 1e-9).any()
    assert not held_out(names, 0.0).any()


def test_no_patient_is_in_both_pools(small_slices: Path) -> None:
    arrays = open_arrays(small_slices)
    pools = Pools.open(NetworkKind.DENOISER, SliceStore.open(arrays, CPU), SETTINGS)
    assert isinstance(pools.training, SlicePool) and isinstance(pools.validation, SlicePool)
    numbers = [torch.cat([pool.bearing, pool.bare]).numpy() for pool in (pools.training, pools.validation)]
    seen, apart = (set(arrays.patient[part].tolist()) for part in numbers)
    assert seen | apart == set(range(13)) and not seen & apart and apart
    assert sum(map(len, numbers)) == len(arrays.images)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(NetworkKind) - {NetworkKind.DENSE_REGRESSOR, NetworkKind.PROGRESSION}))
def test_every_kind_on_slices_is_validated_by_band_and_drawn(
    kind: NetworkKind, small_slices: Path, tmp_path: Path
) -> None:
    train(kind, small_slices, tmp_path, SETTINGS, architecture=TINY)
    looks = [row for row in read_log(tmp_path / "log.jsonl") if "validation" in row]
    assert [row["step"] for row in looks] == [2, 4]
    wanted = ["pairs"] if kind is NetworkKind.SLICE_PROGRESSION else ["0-49", "50-149", "150-349"]
    assert all(list(row["validation"]) == wanted for row in looks)
    sheets = [path.name for path in (tmp_path / "sheets").glob("*")] if (tmp_path / "sheets").exists() else []
    assert sheets == ([] if kind is NetworkKind.ATTENTION_POOL_REGRESSOR else ["000004.png"])
    job = Job(kind, SETTINGS, tmp_path, CPU)
    pool = Pools.open(kind, SliceStore.open(open_arrays(small_slices), CPU), SETTINGS).validation
    assert pool is not None
    again = Validation(job, pool).losses(load_network(tmp_path).module)
    assert again == pytest.approx(looks[-1]["validation"], rel=1e-5), (
        "it is the loss of the averaged weights, on batches that stay the same"
    )


def test_looking_changes_nothing_of_the_training(small_slices: Path, tmp_path: Path) -> None:
    blind = SETTINGS.model_copy(update={"validate_every": 100, "sheet_every": 0})
    for name, settings in (("seen", SETTINGS), ("blind", blind)):
        train(NetworkKind.DENOISER, small_slices, tmp_path / name, settings, architecture=TINY)
    seen, unseen = (
        [row["loss"] for row in read_log(tmp_path / name / "log.jsonl") if "loss" in row] for name in ("seen", "blind")
    )
    assert seen == unseen


def test_without_held_out_patients_nothing_is_validated(small_slices: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"validation_share": 0.0})
    train(NetworkKind.SEGMENTER, small_slices, tmp_path, settings, architecture=TINY)
    assert all("validation" not in row for row in read_log(tmp_path / "log.jsonl"))
    assert not (tmp_path / "sheets").exists()


def test_a_log_has_no_step_twice_after_a_crash(tmp_path: Path) -> None:
    with opened_log(tmp_path, 0) as log:
        for step in range(1, 6):
            log.write({"step": step, "loss": 1.0 / step})
        log.write({"step": 4, "validation": {"0-49": 1.0}})
        log.write({"step": 5, "warning": "…"})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with opened_log(tmp_path, 4) as log:
        assert [row["step"] for row in log.rows] == [1, 2, 3, 4, 4]
        log.write({"step": 5, "loss": 0.5})
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 4, 5]
    (tmp_path / "log.jsonl").write_text("step,loss\n")
    with pytest.raises(InputError, match="not a log of training"):
        read_log(tmp_path / "log.jsonl")


def test_tensorboard_reads_what_the_log_tells(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept: list[Path] = []
    for first in (0, 2):
        with opened_log(tmp_path, first) as log:
            for step in range(first + 1, first + 4):
                log.write({"step": step, "loss": 1.0 / step, "seconds": 1.0})
            log.write({"step": first + 3, "validation": {"0-49": 0.25}})
        (made,) = set((tmp_path / "tensorboard").iterdir()) - set(kept)
        kept.append(
            made.rename(made.with_name(f"events.out.tfevents.{first:010d}"))
        )  # of one second, 10 sorts before 9
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["training/loss", "validation/0-49"]
    assert [event.step for event in events.Scalars("training/loss")] == [1, 2, 3, 4, 5]
    assert [event.step for event in events.Scalars("validation/0-49")] == [5]


def test_without_tensorboard_there_is_a_word_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tumorcast.training.log.find_spec", lambda name: None)
    with opened_log(tmp_path, 0) as log:
        log.write({"step": 1, "loss": 1.0})
    assert caplog.text.count("tensorboard is not installed") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def warnings(watch: DivergenceWatch, rows: list[dict[str, object]]) -> list[tuple[int, str]]:
    said = [(index, watch.look(row)) for index, row in enumerate(rows)]
    return [(index, text) for index, text in said if text is not None]


def test_a_loss_that_doubles_is_told_once() -> None:
    falling = [{"step": k + 1, "loss": 9.0 if k < 10 else 1.0 + 1.0 / (k + 1)} for k in range(3 * WINDOW)]
    assert warnings(DivergenceWatch(10), falling) == []
    rising = [*falling, *({"step": 3 * WINDOW + k, "loss": 4.0} for k in range(1, 4 * WINDOW))]
    ((index, text),) = warnings(DivergenceWatch(10), rising)
    assert 3 * WINDOW < index < 4 * WINDOW
    assert "over 2 times its least" in text


def test_a_validation_loss_that_keeps_rising_is_told_once() -> None:
    def looks(*losses: float) -> list[dict[str, object]]:
        return [{"step": k, "validation": {"0-49": 1.0, "50-149": loss}} for k, loss in enumerate(losses)]

    assert warnings(DivergenceWatch(0), looks(*np.linspace(1, 2, RISES), 1.9, *np.linspace(1, 2, RISES))) == []
    ((index, text),) = warnings(DivergenceWatch(0), looks(*np.linspace(1, 2, RISES + 5)))
    assert index == RISES
    assert "(50-149) rose 5 times in a row" in text


def test_a_warning_is_in_the_log_and_said_once_over_a_resume(
    small_slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tumorcast.training.monitor.WINDOW", 1)
    monkeypatch.setattr("tumorcast.training.monitor.ALARMING", 0.5)
    caplog.set_level(logging.WARNING)
    for until in (3, None):
        train(NetworkKind.SEGMENTER, small_slices, tmp_path, SETTINGS, architecture=TINY, until=until)
    told = [row for row in read_log(tmp_path / "log.jsonl") if "warning" in row]
    assert [row["step"] for row in told] == [2]
    assert caplog.text.count(told[0]["warning"]) == 1


def test_a_sheet_has_its_slices_in_rows_and_black_and_white_as_told() -> None:
    values = torch.arange(SHEET_ROWS, dtype=torch.float32)[:, None, None].expand(SHEET_ROWS, 3, 3)
    drawn = mosaic([SheetColumn("a", values, (0.0, 2.0)), SheetColumn("b", -values, (-4.0, 0.0))])
    assert drawn.shape == (SHEET_ROWS * (3 + GAP), 2 * (3 + GAP))
    assert drawn[:: 3 + GAP, 0].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert drawn[:: 3 + GAP, 3 + GAP].tolist() == [1.0, 0.75, 0.5, 0.25]
    assert (drawn[:, 3 : 3 + GAP] == 1).all()


def test_the_curve_is_drawn_with_its_validation(small_slices: Path, tmp_path: Path) -> None:
    from tumorcast.training.log import draw_curve

    rows = [{"step": k, "loss": 1.0 / k} for k in range(1, 200)]
    draw_curve(rows, tmp_path / "plain.png", title="")
    draw_curve([*rows, {"step": 100, "validation": {"0-49": 0.1}}], tmp_path / "full.png", title="")
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "full.png").read_bytes()
    draw_curve([], tmp_path / "empty.png", title="")
