"""Placeholder until the engines' branch is merged."""

from collections.abc import Sequence
from pathlib import Path

from tumorcast.arrival.field import VolumeNetwork
from tumorcast.settings import Provider


def open_progression(
    model_paths: Sequence[Path], provider: Provider | None = None, device: str | None = None
) -> VolumeNetwork:
    """The progression network on volumes of a model."""
    raise NotImplementedError
