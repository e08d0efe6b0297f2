"""Training: an exact resume, refusals, and that something is learned."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tumorcast.errors import EngineError, InputError, UsageError
from tumorcast.settings import NetworkKind, RateSchedule, TrainSettings
from tumorcast.training.arrays import SliceArrays, open_arrays
from tumorcast.training.dataset import PairPool, Pools, SliceBatch, SlicePool, SliceStore
from tumorcast.training.job import Device, Draws, generator_of
from tumorcast.training.log import read_log
from tumorcast.training.losses import add_noise, segmentation_loss
from tumorcast.training.networks import build, load_network
from tumorcast.training.stepper import compile_forward, learning_rate
from tumorcast.training.train import train

TINY = {"channel_mult": (1, 1), "res_blocks": 1, "attention_resolutions": ()}
SETTINGS = TrainSettings(steps=6, batch=2, warmup_steps=2, checkpoint_every=2)


CPU = torch.device("cpu")


def losses(run: Path) -> list[float]:
    rows = [row for row in read_log(run / "log.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def draw(arrays: SliceArrays, settings: TrainSettings, seed: int = 0) -> SliceBatch:
    everyone = np.ones(len(arrays.patient_ids), np.bool_)
    pool = SlicePool.of(SliceStore.open(arrays, CPU), everyone, settings.tumour_share)
    return pool.draw(Draws(generator_of(CPU, seed), settings.batch), augmented=settings.augment)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NetworkKind.DENOISER, NetworkKind.SLICE_PROGRESSION])
def test_a_resumed_run_is_the_uninterrupted_one(kind: NetworkKind, small_slices: Path, tmp_path: Path) -> None:
    train(kind, small_slices, tmp_path / "whole", SETTINGS, architecture=TINY)
    for stop in (3, 5, None):
        train(kind, small_slices, tmp_path / "parts", SETTINGS, architecture=TINY, until=stop)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6
    whole, parts = (load_network(tmp_path / name).module.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "whole" / "loss.png").stat().st_size > 1000


def test_fine_tuning_starts_from_the_weights_given(small_slices: Path, tmp_path: Path) -> None:
    kind, base = NetworkKind.SEGMENTER, tmp_path / "base"
    train(kind, small_slices, base, SETTINGS, architecture=TINY)
    still = SETTINGS.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0, "seed": 9})
    info = train(kind, small_slices, tmp_path / "tuned", still, start_from=base)
    before, after = (load_network(run).module.state_dict() for run in (base, tmp_path / "tuned"))
    assert info.architecture.channel_mult == TINY["channel_mult"]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    with pytest.raises(UsageError, match="start_from_sha256"):
        train(kind, small_slices, tmp_path / "tuned", still, architecture=TINY)
    with pytest.raises(UsageError, match=r"--start-from .*segmenter"):
        train(NetworkKind.DENOISER, small_slices, tmp_path / "other", still, start_from=base)


@pytest.mark.parametrize("kind", [NetworkKind.SEGMENTER, NetworkKind.SLICE_PROGRESSION])
def test_who_is_left_out_is_not_drawn(kind: NetworkKind, blob_cohort: Path) -> None:
    store = SliceStore.open(open_arrays(blob_cohort), CPU)
    pool = Pools.open(kind, store, TrainSettings(leave_out=("A",), validation_share=0)).training
    numbers = pool.earlier if isinstance(pool, PairPool) else torch.cat([pool.bearing, pool.bare])
    drawn = {store.arrays.patient_ids[place] for place in store.arrays.patient[numbers.numpy()]}
    assert drawn == ({"B"} if kind is NetworkKind.SLICE_PROGRESSION else {"B", "C"})
    with pytest.raises(UsageError, match=r"--leave-out Z: .*A, B, C"):
        Pools.open(kind, store, TrainSettings(leave_out=("Z",)))


def test_a_run_killed_between_checkpoints_falls_back_to_the_last(small_slices: Path, tmp_path: Path) -> None:
    def killed(progress: object) -> None:
        if getattr(progress, "step") == 5:  # noqa: B009 - any object will do
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(NetworkKind.DENOISER, small_slices, tmp_path / "run", SETTINGS, architecture=TINY, report=killed)
    assert len(losses(tmp_path / "run")) == 5, "the log tells of more than the last checkpoint, of step 4"
    train(NetworkKind.DENOISER, small_slices, tmp_path / "run", SETTINGS, architecture=TINY)
    train(NetworkKind.DENOISER, small_slices, tmp_path / "whole", SETTINGS, architecture=TINY)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_other_settings_are_refused_by_name(small_slices: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, small_slices, tmp_path / "run", SETTINGS, architecture=TINY, until=1)
    other = SETTINGS.model_copy(update={"batch": 3})
    with pytest.raises(UsageError, match=r"settings\.batch = 2"):
        train(NetworkKind.DENOISER, small_slices, tmp_path / "run", other, architecture=TINY)


def test_weights_without_a_checkpoint_are_never_trained_over(small_slices: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, small_slices, tmp_path, SETTINGS, architecture=TINY, until=1)
    (tmp_path / "checkpoint.safetensors").unlink()
    before = (tmp_path / "weights.safetensors").read_bytes()
    with pytest.raises(InputError, match="cannot be resumed"):
        train(NetworkKind.DENOISER, small_slices, tmp_path, SETTINGS, architecture=TINY)
    with pytest.raises(UsageError, match=r"settings\.seed = 0"):
        other = SETTINGS.model_copy(update={"seed": 1})
        train(NetworkKind.DENOISER, small_slices, tmp_path, other, architecture=TINY)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_the_seed_changes_every_step(blob_cohort: Path) -> None:
    """Not the initial weights alone: torch's generator keeps 32 bits of a seed, which once lost ours."""
    first, other = (draw(open_arrays(blob_cohort), SETTINGS, seed).images for seed in (1, 2**40))
    assert not torch.equal(first, other)


def test_a_broken_checkpoint_is_refused(small_slices: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, small_slices, tmp_path / "run", SETTINGS, architecture=TINY, until=1)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be resumed from"):
        train(NetworkKind.DENOISER, small_slices, tmp_path / "run", SETTINGS, architecture=TINY)


def test_an_output_that_cannot_be_written_is_refused(blob_cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        train(NetworkKind.DENOISER, blob_cohort, tmp_path / "file" / "run", SETTINGS, architecture=TINY)


def test_an_architecture_for_other_images_is_refused(blob_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes 1 at 64 px"):
        train(
            NetworkKind.DENOISER,
            blob_cohort,
            tmp_path,
            SETTINGS,
            architecture={"in_channels": 1},
        )


def test_weights_that_do_not_fit_their_description_are_refused(small_slices: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, small_slices, tmp_path, SETTINGS, architecture=TINY, until=1)
    record = json.loads((tmp_path / "run.json").read_text())
    record["architecture"]["channels"] = 64
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json describes"):
        load_network(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in NetworkKind if kind is not NetworkKind.PROGRESSION])
def test_every_kind_on_slices_trains_and_loads_in_its_default_size(
    kind: NetworkKind, blob_cohort: Path, tmp_path: Path
) -> None:
    train(kind, blob_cohort, tmp_path, SETTINGS.model_copy(update={"steps": 1}))
    assert load_network(tmp_path).info.kind is kind


@pytest.mark.slow
def test_a_dense_regressor_learns_the_size_of_blobs(small_slices: Path, tmp_path: Path) -> None:
    settings = TrainSettings(steps=60, batch=4, noise_levels=20, learning_rate=3e-3, warmup_steps=5, ema_decay=0.8)
    train(NetworkKind.DENSE_REGRESSOR, small_slices, tmp_path, settings, architecture=TINY)
    regressor = load_network(tmp_path).module
    slices = open_arrays(small_slices)
    images, brain = (torch.from_numpy(np.array(array)).float() for array in (slices.images, slices.brain))
    sizes = regressor(images, torch.zeros(len(images), dtype=torch.long), brain).numpy()
    truth = slices.tumour.sum(axis=(1, 2)) / slices.brain.sum(axis=(1, 2))
    assert np.corrcoef(sizes, truth)[0, 1] > 0.95


def test_batches_hold_the_wanted_share_of_tumour(blob_cohort: Path) -> None:
    batch = draw(open_arrays(blob_cohort), TrainSettings(batch=8, tumour_share=0.75, augment=False))
    assert batch.classes.tolist() == [1] * 6 + [0] * 2


def test_augmentation_keeps_masks_binary_on_their_image(blob_cohort: Path) -> None:
    batch = draw(open_arrays(blob_cohort), TrainSettings(batch=8))
    assert set(batch.tumour.unique().tolist()) <= {0.0, 1.0}
    assert batch.images.min() >= -1 - 1e-5
    assert batch.images.max() <= 1 + 1e-5
    bright, brain = batch.images[:, 0][batch.tumour > 0], batch.images[:, 0][(batch.tumour == 0) & (batch.brain > 0)]
    assert bright.mean() > brain.mean() + 0.3
    outside = batch.images[:, 0][batch.brain == 0]
    assert (outside < -0.9).float().mean() > 0.95


def test_another_device_than_before_is_told_and_goes_on(
    small_slices: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a run from a GPU is taken up here: its checkpoint names another device."""
    train(NetworkKind.SEGMENTER, small_slices, tmp_path, SETTINGS, architecture=TINY, until=2)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["provenance"]["device"] == "cpu"
    record["provenance"]["device"] = "cuda (NVIDIA H100)"
    (tmp_path / "run.json").write_text(json.dumps(record))
    checkpoint = tmp_path / "checkpoint.safetensors"
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["device"] == "cpu"
    save_file(load_file(checkpoint), checkpoint, metadata | {"device": "cuda (NVIDIA H100)"})
    train(NetworkKind.SEGMENTER, small_slices, tmp_path, SETTINGS, architecture=TINY, until=4)
    assert "goes on on cpu, after cuda (NVIDIA H100)" in caplog.text
    caplog.clear()
    train(NetworkKind.SEGMENTER, small_slices, tmp_path, SETTINGS, architecture=TINY)
    assert "goes on" not in caplog.text
    assert len(losses(tmp_path)) == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_missing_is_an_error(small_slices: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="sees 0 CUDA devices"):
        train(NetworkKind.SEGMENTER, small_slices, tmp_path, SETTINGS, device=Device.CUDA)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", list(NetworkKind))
def test_a_cuda_device_trains_every_kind_and_the_cpu_goes_on(
    kind: NetworkKind, small_slices: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"bfloat16": True, "batch": 8})
    for device, until in ((Device.CUDA, 4), (Device.CPU, 5), (Device.CUDA, None)):
        train(kind, small_slices, tmp_path, settings, architecture=TINY, device=device, until=until)
    assert len(losses(tmp_path)) == 6
    assert np.isfinite(losses(tmp_path)).all()


@pytest.mark.parametrize("kind", [NetworkKind.DENOISER, NetworkKind.SEGMENTER, NetworkKind.SLICE_PROGRESSION])
def test_what_is_compiled_is_what_training_calls_and_names_stay(
    kind: NetworkKind, small_slices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile itself takes a minute: in its place stands what counts the calls."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function: lambda *inputs: (calls.append(kind), function(*inputs))[1])
    monkeypatch.setattr("tumorcast.training.train.build", lambda *of: compiled(build(*of)))

    def compiled(module: nn.Module) -> nn.Module:
        compile_forward(module)
        return module

    train(kind, small_slices, tmp_path, SETTINGS, architecture=TINY, until=2)
    assert len(calls) == 2
    assert load_network(tmp_path).info.kind is kind


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    small_slices: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(
        update={"learning_rate": 1e18, "schedule": RateSchedule.CONSTANT, "warmup_steps": 0, "checkpoint_every": 1}
    )
    with pytest.raises(EngineError, match=r"step \d+: .*1e\+18"):
        train(NetworkKind.DENOISER, small_slices, tmp_path, settings, architecture=TINY)
    saved = load_file(tmp_path / "checkpoint.safetensors")
    assert len(losses(tmp_path)) >= 1
    assert all(np.isfinite(row["gradient_norm"]) for row in read_log(tmp_path / "log.jsonl"))
    assert saved


@pytest.mark.parametrize("schedule", list(RateSchedule))
def test_the_rate_follows_the_schedule(schedule: RateSchedule) -> None:
    settings = TrainSettings(steps=20, warmup_steps=4, learning_rate=1.0, schedule=schedule)
    rates = [learning_rate(step, settings) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[4:]) == {1.0} if schedule is RateSchedule.CONSTANT else rates[4:] == sorted(rates[4:])[::-1]
    assert (rates[-1] < 0.02) is (schedule is RateSchedule.COSINE)


def test_noise_has_the_variance_of_the_schedule() -> None:
    zeros, noise = torch.zeros(2, 1, 64, 64), torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    noised = add_noise(zeros, noise, torch.tensor([0, 999]))
    assert noised[0].std().item() == pytest.approx(0.01, rel=0.05)
    assert noised[1].std().item() == pytest.approx(1.0, rel=0.05)


def test_segmentation_loss_is_least_for_the_truth() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:5, 2:5] = 1
    right, wrong = (2 * mask - 1) * 20, (1 - 2 * mask) * 20
    assert segmentation_loss(right, mask) < 1e-3 < segmentation_loss(wrong, mask)
