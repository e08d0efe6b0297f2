"""The page of one patient: everything on it, from the archive to HTML; and what the index says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tumorcast.archive.growth_file import GrowthFile
from tumorcast.archive.maps import MapArchive, PatientForecast, SliceForecast
from tumorcast.evaluation.failure_flags import Failure
from tumorcast.provenance import flat
from tumorcast.records import PatientOutcome, Status
from tumorcast.report.pages import words
from tumorcast.report.pages.curve import CurveChart, Growth
from tumorcast.report.pages.evaluation import COLUMNS, EvaluationFile
from tumorcast.report.pages.html import render
from tumorcast.report.pages.pictures import Box, SlicePictures, chosen
from tumorcast.report.pages.sizes import PatientSizes, SizesChart, SliceSizes, Spread
from tumorcast.report.pages.volumes import viewer_volumes

NOT_AIMED_AT = "The forecast was made for a size that was asked for, not for this curve."


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
    """What the index says of a patient. page: None where there is none. days_ahead: None where no day is aimed at."""

    patient_id: str
    status: Status
    reason: str = ""
    page: str | None = None
    sizes: PatientSizes | None = None
    slices: int = 0
    days_ahead: float | None = None
    flags: tuple[str, ...] = ()
    dice: float | None = None

    @property
    def growth(self) -> Spread | None:
        """The area aimed at over the present one; None where that is not known."""
        return None if self.sizes is None else self.sizes.growth

    @property
    def outcome(self) -> PatientOutcome:
        """How the patient fared."""
        return PatientOutcome(self.patient_id, self.status, self.reason)


def patient_page(source: Source, patient_id: str) -> tuple[str, IndexRow]:
    """The page, and its row. Raises InputError if the archive is damaged there."""
    patient = source.archive.patient(patient_id)
    forecasts = source.archive.slices(patient_id)
    sizes = [SliceSizes.of(one) for one in forecasts]
    row = _row(source, patient, PatientSizes.of(forecasts), sizes)
    provenance = source.archive.provenance
    contrasts = provenance["contrasts"]
    growth = _growth(source, patient)
    html = render(
        "patient.html",
        patient=patient,
        row=row,
        curve=None if growth is None else CurveChart.of(growth, patient),
        sizes=sizes,
        sizes_chart=SizesChart.of(sizes),
        pictures=_pictures(forecasts, contrasts, chosen([bool(one.flags) for one in sizes], source.pictures)),
        viewer=viewer_volumes(forecasts, contrasts),
        captions=[_caption(one) for one in sizes],
        flags=flags_told(row.flags, sizes),
        evaluation=None if source.evaluation is None else source.evaluation.of(patient_id),
        not_evaluated=_not_evaluated(source.evaluation, patient_id),
        columns=COLUMNS,
        size_given=None if source.evaluation is None else source.evaluation.size,
        settings=settings_of(provenance),
        provenance=provenance_of(provenance, source.seal),
    )
    return html, row


def _row(source: Source, patient: PatientForecast, sizes: PatientSizes, slices: Sequence[SliceSizes]) -> IndexRow:
    found = {flag for one in slices for flag in one.flags}
    judged = None if source.evaluation is None else source.evaluation.of(patient.patient_id)
    return IndexRow(
        patient_id=patient.patient_id,
        status=Status.OK,
        page=words.page_name(patient.patient_id),
        sizes=sizes,
        slices=len(slices),
        days_ahead=None if patient.target_day is None else float(patient.target_day - patient.day),
        flags=tuple(str(flag) for flag in Failure if str(flag) in found),
        dice=None if judged is None else judged.dice,
    )


def _growth(source: Source, patient: PatientForecast) -> Growth | None:
    """From the growth file where it has the patient, else from the archive."""
    if source.growth is None or patient.patient_id not in source.growth:
        return Growth.of_archive(patient)
    growth = Growth.of_file(source.growth, patient)
    return growth if patient.curve is not None else replace(growth, notes=[NOT_AIMED_AT, *growth.notes])


def _pictures(forecasts: Sequence[SliceForecast], contrasts: list[str], places: list[int]) -> list[SlicePictures]:
    box = Box.round([one.brain for one in forecasts])
    return [SlicePictures.of(forecasts[place], contrasts, box) for place in places]


def _caption(one: SliceSizes) -> str:
    """A slice's areas in a sentence, for the viewer."""
    flags = ", ".join(words.FLAGS_TOLD[flag][0] for flag in one.flags)
    present, aimed, reached = map(words.area, (one.present, one.aimed.median, one.reached.median))
    told = f"{present} now, {aimed} aimed at, {reached} reached"
    return told + (f"; flagged: {flags}" if flags else "")


def flags_told(flags: Sequence[str], sizes: Sequence[SliceSizes]) -> list[tuple[str, str, str]]:
    """Each flag's name, what it means, and the slices that show it."""
    return [
        (*words.FLAGS_TOLD[flag], ", ".join(str(one.source_slice) for one in sizes if flag in one.flags))
        for flag in flags
    ]


def _not_evaluated(evaluation: EvaluationFile | None, patient_id: str) -> str | None:
    """Why there is no evaluation of a patient, where one was made of others."""
    if evaluation is None or patient_id in evaluation.rows:
        return None
    return evaluation.reasons.get(patient_id) or "the evaluation does not know this patient"


def settings_of(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of the forecast, by name."""
    return [(name, _told(value)) for name, value in flat(dict(provenance.get("settings", {}))).items()]


def provenance_of(provenance: Mapping[str, Any], seal: str) -> list[tuple[str, str]]:
    """What the forecast was made by and of, by name; hashes in full."""
    rest = {name: value for name, value in provenance.items() if name != "settings"}
    return [*((name.replace("_", " "), _told(value)) for name, value in flat(rest).items()), ("archive sha256", seal)]


def _told(value: Any) -> str:
    """A value of JSON in words."""
    if value is None:
        return words.UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_told(one) for one in value)
    return words.without_paths(f"{value:g}" if isinstance(value, float) else str(value))
