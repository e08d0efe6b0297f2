"""Training: an exact resume, refusals, and that something is learned."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorcast.config import NetworkKind, TrainSettings
from tumorcast.errors import InputError, UsageError
from tumorcast.training.losses import add_noise, segmentation_loss
from tumorcast.training.networks import load_network
from tumorcast.training.slices import draw_batch, read_slices
from tumorcast.training.train import train

TINY = {"channel_mult": (1, 1), "res_blocks": 1, "attention_resolutions": ()}
SETTINGS = TrainSettings(steps=6, batch=2, warmup_steps=2, checkpoint_every=2)


def losses(run: Path) -> list[float]:
    with (run / "losses.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_resumed_run_is_the_uninterrupted_one(blob_cohort: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, blob_cohort, tmp_path / "whole", SETTINGS, architecture=TINY)
    for stop in (3, 5, None):
        train(NetworkKind.DENOISER, blob_cohort, tmp_path / "parts", SETTINGS, architecture=TINY, until=stop)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6
    whole, parts = (load_network(tmp_path / name).module.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "whole" / "loss.png").stat().st_size > 1000


def test_a_run_killed_between_checkpoints_falls_back_to_the_last(blob_cohort: Path, tmp_path: Path) -> None:
    def killed(progress: object) -> None:
        if getattr(progress, "step") == 5:  # noqa: B009 - any object will do
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(NetworkKind.DENOISER, blob_cohort, tmp_path / "run", SETTINGS, architecture=TINY, report=killed)
    assert len(losses(tmp_path / "run")) == 4
    train(NetworkKind.DENOISER, blob_cohort, tmp_path / "run", SETTINGS, architecture=TINY)
    train(NetworkKind.DENOISER, blob_cohort, tmp_path / "whole", SETTINGS, architecture=TINY)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_other_settings_are_refused_by_name(blob_cohort: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, blob_cohort, tmp_path / "run", SETTINGS, architecture=TINY, until=1)
    other = SETTINGS.model_copy(update={"batch": 3})
    with pytest.raises(UsageError, match=r"settings\.batch = 2 there, but 3 now"):
        train(NetworkKind.DENOISER, blob_cohort, tmp_path / "run", other, architecture=TINY)


def test_weights_without_a_checkpoint_are_never_trained_over(blob_cohort: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, blob_cohort, tmp_path, SETTINGS, architecture=TINY, until=1)
    (tmp_path / "checkpoint.safetensors").unlink()
    before = (tmp_path / "weights.safetensors").read_bytes()
    with pytest.raises(InputError, match="cannot be resumed"):
        train(NetworkKind.DENOISER, blob_cohort, tmp_path, SETTINGS, architecture=TINY)
    with pytest.raises(UsageError, match=r"settings\.seed = 0 there, but 1 now"):
        other = SETTINGS.model_copy(update={"seed": 1})
        train(NetworkKind.DENOISER, blob_cohort, tmp_path, other, architecture=TINY)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_the_seed_changes_every_step(blob_cohort: Path, tmp_path: Path) -> None:
    """Not the initial weights alone: torch's generator keeps 32 bits of a seed, which once lost ours."""
    from tumorcast.data.cohort import Cohort
    from tumorcast.training.train import batch_generator

    with Cohort.open(blob_cohort) as cohort:
        slices = read_slices(cohort)
    first, other = (draw_batch(slices, SETTINGS, batch_generator(seed, 7)).images for seed in (1, 2**40))
    assert not torch.equal(first, other)


def test_a_broken_checkpoint_is_refused(blob_cohort: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, blob_cohort, tmp_path / "run", SETTINGS, architecture=TINY, until=1)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="cannot be resumed from"):
        train(NetworkKind.DENOISER, blob_cohort, tmp_path / "run", SETTINGS, architecture=TINY)


def test_an_output_that_cannot_be_written_is_refused(blob_cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        train(NetworkKind.DENOISER, blob_cohort, tmp_path / "file" / "run", SETTINGS, architecture=TINY)


def test_an_architecture_for_other_images_is_refused(blob_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images of 4 contrasts at 64 px; the architecture takes 1 at 64 px"):
        train(
            NetworkKind.DENOISER,
            blob_cohort,
            tmp_path,
            SETTINGS,
            architecture={"in_channels": 1},
        )


def test_weights_that_do_not_fit_their_description_are_refused(blob_cohort: Path, tmp_path: Path) -> None:
    train(NetworkKind.DENOISER, blob_cohort, tmp_path, SETTINGS, architecture=TINY, until=1)
    record = json.loads((tmp_path / "run.json").read_text())
    record["architecture"]["channels"] = 64
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"does not hold the network that run\.json describes"):
        load_network(tmp_path)


@pytest.mark.parametrize("kind", list(NetworkKind))
def test_every_kind_trains_and_loads_in_its_default_size(kind: NetworkKind, blob_cohort: Path, tmp_path: Path) -> None:
    train(kind, blob_cohort, tmp_path, SETTINGS.model_copy(update={"steps": 1}))
    assert load_network(tmp_path).info.kind is kind


def test_a_dense_regressor_learns_the_size_of_blobs(blob_cohort: Path, tmp_path: Path) -> None:
    settings = TrainSettings(steps=60, batch=4, noise_levels=20, learning_rate=3e-3, warmup_steps=5, ema_decay=0.8)
    train(NetworkKind.DENSE_REGRESSOR, blob_cohort, tmp_path, settings, architecture=TINY)
    regressor = load_network(tmp_path).module
    from tumorcast.data.cohort import Cohort

    with Cohort.open(blob_cohort) as cohort:
        slices = read_slices(cohort)
    images, brain = torch.from_numpy(slices.images).float(), torch.from_numpy(slices.brain).float()
    sizes = regressor(images, torch.zeros(len(images), dtype=torch.long), brain).numpy()
    truth = slices.tumour.sum(axis=(1, 2)) / slices.brain.sum(axis=(1, 2))
    assert np.corrcoef(sizes, truth)[0, 1] > 0.95


def test_batches_hold_the_wanted_share_of_tumour(blob_cohort: Path) -> None:
    from tumorcast.data.cohort import Cohort

    with Cohort.open(blob_cohort) as cohort:
        slices = read_slices(cohort)
    settings = TrainSettings(batch=8, tumour_share=0.75, augment=False)
    batch = draw_batch(slices, settings, torch.Generator().manual_seed(0))
    assert batch.classes.tolist() == [1] * 6 + [0] * 2


def test_augmentation_keeps_masks_binary_on_their_image(blob_cohort: Path) -> None:
    from tumorcast.data.cohort import Cohort

    with Cohort.open(blob_cohort) as cohort:
        slices = read_slices(cohort)
    batch = draw_batch(slices, TrainSettings(batch=8), torch.Generator().manual_seed(0))
    assert set(batch.tumour.unique().tolist()) <= {0.0, 1.0}
    assert batch.images.min() >= -1 - 1e-5
    assert batch.images.max() <= 1 + 1e-5
    bright, brain = batch.images[:, 0][batch.tumour > 0], batch.images[:, 0][(batch.tumour == 0) & (batch.brain > 0)]
    assert bright.mean() > brain.mean() + 0.3
    outside = batch.images[:, 0][batch.brain == 0]
    assert (outside < -0.9).float().mean() > 0.95


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
