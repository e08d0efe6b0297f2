"""The page of one patient: everything on it, from the archive to HTML; and what the index says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from markupsafe import Markup

from tumorcast.archive.growth_file import GrowthFile
from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast, VolumeForecast
from tumorcast.evaluation.failure_flags import Failure, flags_of, reach_of
from tumorcast.forecasting.targets import VOLUME_TO_AREA, area_power
from tumorcast.provenance import flat
from tumorcast.records import PatientOutcome, Status
from tumorcast.report.pages import words
from tumorcast.report.pages.charts import AreasBySlice, GrowthChart, areas_chart
from tumorcast.report.pages.evaluation import COLUMNS, EvaluationFile
from tumorcast.report.pages.pictures import Box, SlicePictures, chosen
from tumorcast.report.pages.render import render
from tumorcast.report.pages.volume_pictures import horizon_pictures
from tumorcast.report.pages.volumes import ViewerVolumes, viewer_volumes, whole_volumes
from tumorcast.report.sizes import HorizonVolumes, Spread, volumes_of

VOLUME_APART = "volume_apart"  # in words.FLAG_TEXTS


@dataclass(frozen=True)
class SliceSummary:
    """Areas of a slice in mm²: now, of the mask; aimed at and reached, of members.

    reach: the area gained over the area wanted, NaN where too little was wanted (evaluation/failure_flags.py).
    """

    source_slice: int
    present: float
    aimed: Spread
    reached: Spread
    reach: float
    flags: list[str]

    @classmethod
    def of(cls, forecast: SliceForecast) -> Self:
        """The areas of a slice's forecast."""
        return cls(
            int(forecast.source_slice),
            float(forecast.present_mm2),
            Spread.of(forecast.aimed_mm2),
            Spread.of(forecast.reached_mm2),
            reach_of(forecast),
            flags_of(forecast),
        )


@dataclass(frozen=True)
class PatientSummary:
    """The areas of all slices together, in mm²; a member follows one trajectory over all slices of a patient.

    growth: the area aimed at over the present one; None where there is no tumour now.
    """

    present: float
    aimed: Spread
    reached: Spread
    growth: Spread | None
    members: int

    @classmethod
    def of(cls, forecasts: Sequence[SliceForecast]) -> Self:
        """The sums over a patient's slices."""
        present = float(sum(forecast.present_mm2 for forecast in forecasts))
        aimed = np.sum([forecast.aimed_mm2 for forecast in forecasts], axis=0)
        reached = np.sum([forecast.reached_mm2 for forecast in forecasts], axis=0)
        growth = Spread.of(aimed / present) if present > 0 else None
        return cls(present, Spread.of(aimed), Spread.of(reached), growth, len(aimed))


@dataclass(frozen=True)
class Source:
    """What the report is made of. pictures: the most slices that a page draws; the viewer has them all.

    seal: the SHA-256 of the archive's content.
    """

    archive: MapArchive
    growth: GrowthFile | None
    evaluation: EvaluationFile | None
    pictures: int
    seal: str


@dataclass(frozen=True)
class IndexRow:
    """What the index says of a patient. page: None where there is none. days_ahead: None where no day is aimed at.

    flags: of the slices. sizes: of the slices, None where there are none; volumes: at each horizon, where the whole
    tumour was forecast.
    foretold: the growth by the size forecast, of the volume where there is one, else of the area; None where a size was
    asked for, or nothing was seen last.
    """

    patient_id: str
    status: Status
    reason: str = ""
    page: str | None = None
    sizes: PatientSummary | None = None
    slices: int = 0
    days_ahead: float | None = None
    flags: tuple[str, ...] = ()
    dice: float | None = None
    foretold: Spread | None = None
    volumes: tuple[HorizonVolumes, ...] = ()

    @property
    def growth(self) -> Spread | None:
        """The volume, or else the area, on the first day aimed at over the present one; None where it is not known.

        What the size forecast itself says, of which few members have but a few quantiles; else what members aim at.
        """
        if self.foretold is not None:
            return self.foretold
        if self.volumes:
            return self.volumes[0].growth
        return None if self.sizes is None else self.sizes.growth

    @property
    def all_flags(self) -> tuple[str, ...]:
        """Those of the slices, and whether the map of the volume misses a size."""
        apart = any(told.reach.notes() for told in self.volumes)
        return (*self.flags, *([VOLUME_APART] if apart else []))

    @property
    def outcome(self) -> PatientOutcome:
        """How the patient fared."""
        return PatientOutcome(self.patient_id, self.status, self.reason)


def patient_page(source: Source, patient_id: str) -> tuple[str, IndexRow]:
    """The page, and its row. Raises InputError if the archive is damaged there."""
    patient = source.archive.patient(patient_id)
    forecasts, volume = source.archive.slices(patient_id), source.archive.volume(patient_id)
    sizes = [SliceSummary.of(forecast) for forecast in forecasts]
    row = _row(source, patient, forecasts, sizes, volume)
    provenance = source.archive.provenance
    contrasts = provenance["contrasts"]
    viewer, captions = _viewer(patient, forecasts, volume, contrasts)
    html = render(
        "patient.html",
        patient=patient,
        row=row,
        growth=GrowthChart.of(source.growth, patient, [one.days for one in row.volumes if one.days is not None]),
        sizes=sizes,
        members=forecasts[0].aimed_mm2.size if volume is None else volume.target_ratio.shape[1],
        areas_chart=_areas_chart(sizes) if len(sizes) > 1 else None,
        pictures=_pictures(forecasts, contrasts, chosen([bool(areas.flags) for areas in sizes], source.pictures)),
        whole=[] if volume is None else horizon_pictures(volume, contrasts),
        viewer=viewer,
        captions=captions,
        flags=flag_rows(row.flags, sizes),
        evaluation=None if source.evaluation is None else source.evaluation.of(patient_id),
        not_evaluated=_not_evaluated(source.evaluation, patient_id),
        columns=COLUMNS,
        size_given=None if source.evaluation is None else source.evaluation.size,
        settings=settings_of(provenance),
        provenance=provenance_of(provenance, source.seal),
    )
    return html, row


def _viewer(
    patient: PatientForecast, forecasts: Sequence[SliceForecast], volume: VolumeForecast | None, contrasts: list[str]
) -> tuple[ViewerVolumes, list[str]]:
    """What the viewer shows, the whole tumour where it was forecast, and a sentence for each of its slices."""
    if volume is None:
        return viewer_volumes(forecasts, contrasts), [_caption(SliceSummary.of(forecast)) for forecast in forecasts]
    viewer = whole_volumes(patient, volume, contrasts, forecasts)
    return viewer, [_volume_caption(volume, number) for number in viewer.slices]


def _volume_caption(volume: VolumeForecast, number: int) -> str:
    """The areas of a slice of the volume in a sentence: of the mask, and as the growth map expects them."""
    mm2 = volume.voxel_mm**2
    present = words.area(np.count_nonzero(volume.labels[number]) * mm2)
    expected = [
        f"{words.area(float(growth.sum(dtype=np.float64)) * mm2)} expected {sizes.when}"
        for growth, sizes in zip(volume.growth[:, number], volumes_of(volume), strict=True)
    ]
    return ", ".join([f"{present} now", *expected])


def _row(
    source: Source,
    patient: PatientForecast,
    forecasts: Sequence[SliceForecast],
    slices: Sequence[SliceSummary],
    volume: VolumeForecast | None,
) -> IndexRow:
    sizes = PatientSummary.of(forecasts) if forecasts else None
    known = volume is not None or (sizes is not None and sizes.growth is not None)
    flags = {flag for areas in slices for flag in areas.flags}
    evaluation = None if source.evaluation is None else source.evaluation.of(patient.patient_id)
    return IndexRow(
        patient_id=patient.patient_id,
        status=Status.OK,
        page=words.page_name(patient.patient_id),
        sizes=sizes,
        slices=len(slices),
        days_ahead=None if patient.target_day is None else float(patient.target_day - patient.day),
        flags=tuple(str(flag) for flag in Failure if str(flag) in flags),
        dice=None if evaluation is None else evaluation.dice,
        foretold=_foretold(patient, of_volume=volume is not None) if known else None,
        volumes=() if volume is None else tuple(volumes_of(volume)),
    )


def _foretold(patient: PatientForecast, *, of_volume: bool) -> Spread | None:
    """The volume, or the area, on the day aimed at over that of the last scan, as the growth curve has it."""
    curve, last = patient.curve, 0.0 if patient.curve is None else float(patient.curve["observed_sizes"][-1])
    if curve is None or patient.size_name is None or patient.target_day is None or last <= 0:
        return None
    sizes = (float(np.interp(patient.target_day, curve["days"], curve[name])) for name in ("q50", "q05", "q95"))
    power = area_power(patient.size_name) / (VOLUME_TO_AREA if of_volume else 1.0)
    return Spread(*((size / last) ** power for size in sizes))


def _areas_chart(sizes: Sequence[SliceSummary]) -> Markup:
    aimed = np.array([(areas.aimed.median, areas.aimed.low, areas.aimed.high) for areas in sizes]).T
    columns = np.array([(areas.source_slice, areas.present, areas.reached.median) for areas in sizes], np.float64).T
    slices, present, reached = columns
    return areas_chart(AreasBySlice(slices, present, aimed, reached))


def _pictures(forecasts: Sequence[SliceForecast], contrasts: list[str], numbers: list[int]) -> list[SlicePictures]:
    if not forecasts:
        return []
    box = Box.round([forecast.brain for forecast in forecasts])
    return [SlicePictures.of(forecasts[number], contrasts, box) for number in numbers]


def _caption(areas: SliceSummary) -> str:
    """A slice's areas in a sentence, for the viewer."""
    flags = ", ".join(words.FLAG_TEXTS[flag][0] for flag in areas.flags)
    present, aimed, reached = map(words.area, (areas.present, areas.aimed.median, areas.reached.median))
    text = f"{present} now, {aimed} aimed at, {reached} reached"
    return text + (f"; flagged: {flags}" if flags else "")


def flag_rows(flags: Sequence[str], sizes: Sequence[SliceSummary]) -> list[tuple[str, str, str]]:
    """Each flag's name, what it means, and the slices that show it."""
    return [
        (*words.FLAG_TEXTS[flag], ", ".join(str(areas.source_slice) for areas in sizes if flag in areas.flags))
        for flag in flags
    ]


def _not_evaluated(evaluation: EvaluationFile | None, patient_id: str) -> str | None:
    """Why there is no evaluation of a patient, where one was made of others."""
    if evaluation is None or patient_id in evaluation.rows:
        return None
    return evaluation.reasons.get(patient_id) or "the evaluation does not know this patient"


def settings_of(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of the forecast, by name."""
    return [(name, _as_text(value)) for name, value in flat(dict(provenance.get("settings", {}))).items()]


def provenance_of(provenance: Mapping[str, Any], seal: str) -> list[tuple[str, str]]:
    """What the forecast was made by and of, by name; hashes in full."""
    rest = {name: value for name, value in provenance.items() if name != "settings"}
    return [
        *((name.replace("_", " "), _as_text(value)) for name, value in flat(rest).items()),
        ("archive sha256", seal),
    ]


def _as_text(value: Any) -> str:
    """A value of JSON in words."""
    if value is None:
        return words.UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_as_text(part) for part in value)
    return words.without_paths(f"{value:g}" if isinstance(value, float) else str(value))
