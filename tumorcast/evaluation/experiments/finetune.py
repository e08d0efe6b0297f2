"""A model before and after a few steps of training on the patient's own earlier scans, judged by the last one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tumorcast.data.cohort import Cohort
from tumorcast.engines.model import ModelSet
from tumorcast.engines.protocol import Engine
from tumorcast.engines.torch_engine import TorchEngine
from tumorcast.evaluation.experiments.experiment import Findings
from tumorcast.evaluation.experiments.judged import MEASURES, NOTE, Measure, judged_together, mean_figures
from tumorcast.evaluation.experiments.later import Followed, FollowedCohort, SizeSource
from tumorcast.evaluation.experiments.shown import Shown, channel_shown, examples
from tumorcast.evaluation.experiments.variants import as_figures, differences_table, means_table, values_of
from tumorcast.evaluation.judging import Figures, unguided_image_figures
from tumorcast.evaluation.methods import unguided
from tumorcast.evaluation.paired import difference
from tumorcast.evaluation.pairs import Pair
from tumorcast.evaluation.summary import mode_told
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.settings import ForecastSettings, NetworkKind, TrainSettings
from tumorcast.training.dataset import find_pairs
from tumorcast.training.finetune import patient_arrays, tuned

BEFORE, AFTER = "before", "after"
RECONSTRUCTION = (
    Measure("ssim_now", "SSIM, present scan reconstructed", 4),
    Measure("psnr_now_db", "PSNR, present scan reconstructed, dB", 2),
    Measure("ssim_unseen", "SSIM, later scan reconstructed", 4),
    Measure("psnr_unseen_db", "PSNR, later scan reconstructed, dB", 2),
)
EVERY = (*RECONSTRUCTION, *MEASURES)
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
        told = self.forecast.model_dump(mode="json", exclude={"horizon_days", "relative_change", "keep_members"})
        return {"forecast": told, "training": self.training.model_dump(mode="json"), "slices": self.slices}

    @property
    def tuning(self) -> TrainSettings:
        """Of the denoiser, which is asked at no higher noise level."""
        return self.training.model_copy(update={"noise_levels": self.forecast.sampler.noise_level})


@dataclass(frozen=True)
class Finetune:
    """One unit is a patient. patients: at most so many, spread over the cohort; None takes all."""

    cohort: FollowedCohort
    engine: TorchEngine
    sizes: SizeSource
    settings: FinetuneSettings
    patients: int | None = None
    name: ClassVar[str] = "finetune"

    def made_of(self) -> dict[str, Any]:
        """See Experiment."""
        return {
            "cohort_sha256": self.cohort.truth.sha256,
            "model_sha256": self.engine.info.sha256,
            "sizes": self.sizes.as_dict(),
            "settings": self.settings.as_dict(),
        }

    def units(self) -> Sequence[str]:
        """The patients with a later scan."""
        return list(self.cohort.units(self.patients))

    def measure(self, unit: str, pictures: Path) -> Figures:
        """A patient's figures with the model as it is, and with one tuned on all scans but the last."""
        patient_id, settings = self.cohort.units(None)[unit], self.settings
        followed = self.cohort.follow(patient_id, settings.slices)
        aim = self.sizes.aim(self.cohort.known, followed, settings.forecast)
        one = aim.settings.model_copy(update={"keep_members": True})
        targets, channel = aim.draw(one), channel_shown(self.cohort.truth.contrasts)
        own = OwnModel.tuned_on(self.cohort.known, patient_id, self.engine, settings)
        row: Figures = {"ratio": followed.ratio, "slices": own.slices, "progression": own.progression}
        images = {}
        for name, engine in ((BEFORE, self.engine), (AFTER, own.engine)):
            row[name], images[name] = _figures(followed, engine, targets, one, channel)
        Shown.of(followed.pairs[0], images, channel).save(pictures)
        return row

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """See Experiment."""
        values = {name: values_of([row[name] for row in rows.values()], EVERY) for name in (BEFORE, AFTER)}
        also = sum(row["progression"] for row in rows.values())
        note = (
            f"{RECONSTRUCTION_NOTE} Of {len(rows)} patients, {also} have two earlier scans of one slice, and their "
            f"progression network was tuned too. {NOTE}"
        )
        tables = [
            means_table("Before and after", values, EVERY, note),
            differences_table("What the steps changed", values, BEFORE, EVERY),
        ]
        change = values[AFTER]["ap_images"] - values[BEFORE]["ap_images"]
        titles = {unit: f"{unit}, × {row['ratio']:.2f}" for unit, row in rows.items()}
        picture = examples("slices", "Patients from the least to the greatest change of AP.", pictures, titles, change)
        return Findings(self._answer(values), as_figures(values, BEFORE, EVERY), tables, [picture])

    def _answer(self, values: Any) -> str:
        told = {
            one.name: difference(values[AFTER][one.name], values[BEFORE][one.name]).estimate.told(
                one.digits, signed=True
            )
            for one in EVERY
        }
        return (
            "Do a few steps of training on the patient's own earlier scans help to forecast the next one? Forecasts "
            f"aim at the {mode_told(self.sizes.mode)}. After {self.settings.training.steps} steps the SSIM of the "
            f"reconstructed present scan changes by {told['ssim_now']}, that of the reconstructed later scan, which "
            f"was not trained on, by {told['ssim_unseen']}; the forecast's SSIM to the later scan by "
            f"{told['ssim_later']}, average precision of the growth map by {told['ap']}, of the segmented images by "
            f"{told['ap_images']}."
        )


@dataclass(frozen=True)
class OwnModel:
    """A model of one patient's own. slices: it was tuned on; progression: whether that network was tuned too."""

    engine: Engine
    slices: int
    progression: bool

    @classmethod
    def tuned_on(cls, known: Cohort, patient_id: str, engine: TorchEngine, settings: FinetuneSettings) -> "OwnModel":
        """Denoiser and, where one slice is in two scans, progression network, tuned on all that is known."""
        scans = [known.session(patient_id, info.id) for info in known.sessions(patient_id) if info.n_slices]
        arrays = patient_arrays(known.path, scans)
        denoiser = tuned(engine.denoiser, NetworkKind.DENOISER, arrays, settings.tuning)
        progression, everyone = engine.progression, np.ones(1, np.bool_)
        also = progression is not None and len(find_pairs(arrays, everyone)) > 0
        if progression is not None and also:
            progression = tuned(progression, NetworkKind.PROGRESSION, arrays, settings.training)
        model = ModelSet(denoiser, engine.regressor, engine.segmenter, engine.info, {}, progression)
        return cls(TorchEngine(model, engine.device), len(arrays.images), also)


def _figures(
    followed: Followed, engine: Engine, targets: PatientTargets, settings: ForecastSettings, channel: int
) -> tuple[dict[str, float], Any]:
    """The figures of EVERY, and of the first slice the mean image (H, W) and the map."""
    made = followed.forecast(engine, targets, settings)
    figures = judged_together(followed, made, engine, batch=settings.batch)
    figures |= mean_figures([_reconstructed(pair, engine, settings) for pair in followed.pairs])
    first = made[0]
    return figures, (first.mean[channel], first.tumour if first.growth is None else first.growth)


def _reconstructed(pair: Pair, engine: Engine, settings: ForecastSettings) -> dict[str, float]:
    told: dict[str, float] = {}
    for name, one in (("now", pair), ("unseen", replace(pair, now=pair.later))):
        found = unguided_image_figures(one, unguided(one, engine, settings))
        told |= {f"ssim_{name}": found["ssim_unguided"], f"psnr_{name}_db": found["psnr_unguided_db"]}
    return told
