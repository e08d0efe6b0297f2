"""A model before and after a few steps of training on the patient's own earlier scans, judged by the last one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tumorcast.counted import counted
from tumorcast.data.cohort import Cohort
from tumorcast.engines.model import ModelSet
from tumorcast.engines.protocol import Engine
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.evaluation.baselines import unguided
from tumorcast.evaluation.experiments.base import Findings, Row
from tumorcast.evaluation.experiments.followup_source import by_unit, followed_units
from tumorcast.evaluation.experiments.forecast_scores import METRICS, NOTE, mean_scores, score_forecasts
from tumorcast.evaluation.experiments.report_tables import as_figures, differences_table, means_table, values_of
from tumorcast.evaluation.experiments.slice_plots import SliceExample, channel_shown, examples_picture
from tumorcast.evaluation.followup import FollowUp, area_ratio, forecast_followups, last_followups
from tumorcast.evaluation.metrics import PSNR, SSIM
from tumorcast.evaluation.score import reconstruction
from tumorcast.evaluation.statistics import difference
from tumorcast.evaluation.targets import TargetSource
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import ForecastSettings, NetworkKind, TrainSettings
from tumorcast.training.dataset import find_pairs
from tumorcast.training.finetune import patient_arrays, tuned

BEFORE, AFTER = "before", "after"
RECONSTRUCTION = (
    SSIM.called("ssim_now", "SSIM, present scan reconstructed", 4),
    PSNR.called("psnr_now_db", "PSNR, present scan reconstructed, dB", 2),
    SSIM.called("ssim_unseen", "SSIM, later scan reconstructed", 4),
    PSNR.called("psnr_unseen_db", "PSNR, later scan reconstructed, dB", 2),
)
EVERY = (*RECONSTRUCTION, *METRICS)
RECONSTRUCTION_NOTE = (
    "Reconstructed: encoded and decoded without guidance, over the brain; the present scan was trained on, the later "
    "one was not."
)
TUNING = TrainSettings(steps=50, batch=4, learning_rate=1e-4, warmup_steps=5, augment=False)


@dataclass(frozen=True)
class FinetuneSettings:
    """forecast: members, seed, batch and sampler; its target is not used. training: of both networks.

    Diffusion times are drawn from those below the sampler's noise level. slices: judged of a patient, at most.
    """

    forecast: ForecastSettings
    training: TrainSettings = TUNING
    slices: int = 1

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        forecast = self.forecast.model_dump(mode="json", exclude={"horizon_days", "relative_change", "keep_members"})
        return {"forecast": forecast, "training": self.training.model_dump(mode="json"), "slices": self.slices}

    @property
    def tuning(self) -> TrainSettings:
        """Of the denoiser, which is asked at no higher noise level."""
        return self.training.model_copy(update={"noise_levels": self.forecast.sampler.noise_level})


@dataclass(frozen=True)
class FinetuneExperiment:
    """One unit is a patient. patients: at most so many, spread over the cohort; None takes all."""

    cohort: Cohort
    engine: TorchEngine
    targets: TargetSource
    settings: FinetuneSettings
    patients: int | None = None
    name: ClassVar[str] = "finetune"

    def provenance(self) -> dict[str, Any]:
        """See Experiment."""
        return {
            "cohort_sha256": self.cohort.sha256,
            "model_sha256": self.engine.info.sha256,
            "sizes": self.targets.as_dict(),
            "settings": self.settings.as_dict(),
        }

    def units(self) -> Sequence[str]:
        """The patients with a later scan."""
        return followed_units(self.cohort, self.patients)

    def measure(self, unit: str, pictures: Path) -> Row:
        """A patient's figures with the model as it is, and with one tuned on all scans but the last."""
        patient_id, settings = by_unit(self.cohort.patient_ids())[unit], self.settings
        followups = last_followups(self.cohort, patient_id, settings.slices)
        drawn = self.targets.of(self.cohort, followups, settings.forecast)
        kept = drawn.settings.model_copy(update={"keep_members": True})
        targets, channel = drawn.draw(kept), channel_shown(self.cohort.contrasts)
        tuned_model = TunedModel.tuned_on(self.cohort.before_last_scan(), patient_id, self.engine, settings)
        row: Row = {
            "ratio": area_ratio(followups),
            "slices": tuned_model.slices,
            "progression": tuned_model.progression,
        }
        images = {}
        for name, engine in ((BEFORE, self.engine), (AFTER, tuned_model.engine)):
            row[name], images[name] = _figures(followups, engine, targets, kept, channel)
        SliceExample.of(followups[0], images, channel).save(pictures)
        return row

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """See Experiment."""
        values = {name: values_of([row[name] for row in rows.values()], EVERY) for name in (BEFORE, AFTER)}
        also = sum(row["progression"] for row in rows.values())
        note = (
            f"{RECONSTRUCTION_NOTE} Of {counted(len(rows), 'patient')}, {counted(also, 'has', 'have')} two earlier "
            "scans of one slice, and their "
            f"progression network was tuned too. {NOTE}"
        )
        tables = [
            means_table("Before and after", values, EVERY, note),
            differences_table("What the steps changed", values, BEFORE, EVERY),
        ]
        change = values[AFTER]["ap_images"] - values[BEFORE]["ap_images"]
        titles = {unit: f"{unit}, × {row['ratio']:.2f}" for unit, row in rows.items()}
        caption = "Patients from the least to the greatest change of AP."
        picture = examples_picture("slices", caption, pictures, titles, change)
        return Findings(self._answer(values), as_figures(values, BEFORE, EVERY), tables, [picture])

    def _answer(self, values: Any) -> str:
        change = {
            metric.name: difference(values[AFTER][metric.name], values[BEFORE][metric.name]).estimate.text(
                metric.digits, signed=True
            )
            for metric in EVERY
        }
        return (
            "Do a few steps of training on the patient's own earlier scans help to forecast the next one? Forecasts "
            f"aim at the {self.targets.target.label}. After {self.settings.training.steps} steps the SSIM of the "
            f"reconstructed present scan changes by {change['ssim_now']}, that of the reconstructed later scan, which "
            f"was not trained on, by {change['ssim_unseen']}; the forecast's SSIM to the later scan by "
            f"{change['ssim_later']}, average precision of the growth map by {change['ap']}, of the segmented images "
            f"by {change['ap_images']}."
        )


@dataclass(frozen=True)
class TunedModel:
    """A model tuned on one patient. slices: it was tuned on; progression: whether that network was tuned too."""

    engine: Engine
    slices: int
    progression: bool

    @classmethod
    def tuned_on(cls, known: Cohort, patient_id: str, engine: TorchEngine, settings: FinetuneSettings) -> "TunedModel":
        """Denoiser and, where one slice is in two scans, progression network, tuned on all that is known."""
        scans = [known.session(patient_id, info.id) for info in known.sessions(patient_id) if info.n_slices]
        arrays = patient_arrays(known.path, scans)
        denoiser = tuned(engine.denoiser, NetworkKind.DENOISER, arrays, settings.tuning)
        progression, everyone = engine.progression, np.ones(1, np.bool_)
        also = progression is not None and len(find_pairs(arrays, everyone)) > 0
        if progression is not None and also:
            progression = tuned(progression, NetworkKind.SLICE_PROGRESSION, arrays, settings.training)
        model = ModelSet(denoiser, engine.regressor, engine.segmenter, engine.info, {}, progression)
        return cls(TorchEngine(model, engine.device), len(arrays.images), also)


def _figures(
    followups: Sequence[FollowUp], engine: Engine, targets: PatientTargets, settings: ForecastSettings, channel: int
) -> tuple[dict[str, float], Any]:
    """The figures of EVERY, and of the first slice the mean image (H, W) and the map."""
    forecasts = forecast_followups(followups, targets, engine, settings)
    figures = score_forecasts(followups, forecasts, engine, batch=settings.batch)
    figures |= mean_scores([_reconstruction(followup, engine, settings) for followup in followups])
    first = forecasts[0]
    return figures, (first.mean[channel], first.tumour if first.growth is None else first.growth)


def _reconstruction(followup: FollowUp, engine: Engine, settings: ForecastSettings) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, scan in (("now", followup), ("unseen", replace(followup, now=followup.later))):
        similar, noise_db = reconstruction(scan, unguided(scan, engine, settings))
        figures |= {f"ssim_{name}": similar, f"psnr_{name}_db": noise_db}
    return figures
