"""Growth maps in three dimensions: of all members, and all horizons, from one field of arrival."""

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import VolumeForecast
from tumorcast.arrival.field import ArrivalModel, check_voxels
from tumorcast.forecasting.targets import PatientTargets
from tumorcast.forecasting.volume_reach import largest_ratio
from tumorcast.records import Contrast, SessionVolume
from tumorcast.settings import ForecastSettings


def forecast_volume(
    volume: SessionVolume,
    contrasts: tuple[Contrast, ...],
    targets: PatientTargets,
    model: ArrivalModel,
    settings: ForecastSettings,
) -> VolumeForecast:
    """The growth map of a scan with tumour at each horizon. Raises InputError if the model takes other voxels."""
    check_voxels(model, volume.voxel_mm)
    field = model.field(volume, contrasts)
    ratios = held(targets.volume_ratio, volume)
    growth = np.stack([field.probability(members) for members in ratios]).astype(np.float16)
    cell_mm3 = volume.voxel_mm**3
    return VolumeForecast(
        image=volume.images,
        labels=volume.labels,
        brain=volume.brain,
        affine=np.asarray(volume.affine, np.float64),
        growth=growth,
        log_volume=field.order().astype(np.float16),
        horizon_days=np.array(settings.horizons or [np.nan], np.float64),
        target_ratio=ratios,
        expected_mm3=growth.sum(axis=(1, 2, 3), dtype=np.float64) * cell_mm3,
        present_mm3=volume.volume_mm3,
        model=model.name,
    )


def held(ratios: npt.NDArray[np.float64], volume: SessionVolume) -> npt.NDArray[np.float64]:
    """Ratios of volumes held below half of the brain, as those of areas are."""
    return np.minimum(ratios, largest_ratio(volume.tumour, volume.brain))
