"""The charts of a patient's page: matplotlib figures as SVG that stands in the page, named for screen readers.

A chart has the page's lettering and the colours of its style sheet (report.css), and its shapes tell their values when
pointed at. The same numbers give the same bytes.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tumorcast.archive.growth_file import GrowthFile
from tumorcast.archive.maps import PatientForecast
from tumorcast.growth import plot
from tumorcast.growth.plot import GrowthCurve, plot_growth, size_label
from tumorcast.records import RadiotherapyCourse, Treatment
from tumorcast.report.pages import words

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
POINTS_AN_INCH = 72.0  # of matplotlib's SVG
WIDTH, HEIGHT = 1000.0, 360.0  # of the view box; the page scales it
QUIET_COLOUR, GRID_COLOUR = "#4d5761", "#e4e8ec"
NOW_COLOUR = plot.HELD_OUT_COLOUR
CSS_COLOURS = {  # of the style sheet, by what is drawn with
    plot.INK_COLOUR: "ink",
    plot.FIT_COLOUR: "grey",
    plot.FORECAST_COLOUR: "forecast",
    NOW_COLOUR: "now",
    plot.RADIOTHERAPY_COLOUR: "treatment",
    plot.CHEMOTHERAPY_COLOUR: "chemotherapy",
    QUIET_COLOUR: "quiet",
    GRID_COLOUR: "grid",
}
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a column of sizes may have any name
    "svg.fonttype": "none",
    "font.size": 12.5,
    "axes.labelsize": 13.5,
    "axes.labelcolor": plot.INK_COLOUR,
    "text.color": plot.INK_COLOUR,
    "xtick.color": plot.FIT_COLOUR,
    "ytick.color": plot.FIT_COLOUR,
    "xtick.labelcolor": QUIET_COLOUR,
    "ytick.labelcolor": QUIET_COLOUR,
    "ytick.major.size": 0,
    "axes.edgecolor": plot.FIT_COLOUR,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID_COLOUR,
    "lines.markersize": 10,
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
FONT = re.compile(r"font-family: [^;\"]*;? ?")
NUMBERED = re.compile(r"_\d+$")  # an id that matplotlib gave
BEYOND = 0.12  # of the span from the first scan to the day aimed at, which the curve goes on

for prefix, namespace in (("", SVG), ("xlink", XLINK)):
    ElementTree.register_namespace(prefix, namespace)


@dataclass(frozen=True)
class ChartText:
    """What a chart is called, and says, where it is not seen. name: of its parts' ids, one a page."""

    name: str
    title: str
    description: str


def inline_svg(text: ChartText, draw: Callable[[Axes], None], tooltips: Mapping[str, Sequence[str]]) -> Markup:
    """A chart as an SVG element of a page. tooltips: by an artist's gid, a text for each of its shapes, in order."""
    buffer = io.StringIO()
    with style.context("default"), rc_context(STYLE | {"svg.hashsalt": text.name}):  # whatever a matplotlibrc says
        figure = Figure(figsize=(WIDTH / POINTS_AN_INCH, HEIGHT / POINTS_AN_INCH), layout="constrained")
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", metadata=NO_METADATA, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    _add_tooltips(root, tooltips)
    _name(root, text)
    svg = FONT.sub("", ElementTree.tostring(root, encoding="unicode"))
    for colour, name in CSS_COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)


def _add_tooltips(root: ElementTree.Element, tooltips: Mapping[str, Sequence[str]]) -> None:
    """Put a title in a group round each marker of an artist, or in the artist's own group where it has no markers."""
    for gid, texts in tooltips.items():
        artists = [group for group in root.iter(f"{{{SVG}}}g") if group.get("id") == gid]
        groups = [_grouped(parent, use) for artist in artists for parent, use in _markers(artist)] or artists
        for group, text in zip(groups, texts, strict=True):
            group.insert(0, _element("title", text))


def _markers(artist: ElementTree.Element) -> list[tuple[ElementTree.Element, ElementTree.Element]]:
    """The markers, each with its parent."""
    return [(parent, use) for parent in artist.iter() for use in parent.findall(f"{{{SVG}}}use")]


def _grouped(parent: ElementTree.Element, element: ElementTree.Element) -> ElementTree.Element:
    """A new group in the element's place, with the element in it."""
    group = ElementTree.Element(f"{{{SVG}}}g")
    parent[list(parent).index(element)] = group
    group.append(element)
    return group


def _element(tag: str, text: str, **attributes: str) -> ElementTree.Element:
    element = ElementTree.Element(f"{{{SVG}}}{tag}", attributes)
    element.text = text
    return element


def _name(root: ElementTree.Element, text: ChartText) -> None:
    """Name the chart for screen readers. Our gids become classes and matplotlib's go: a page has several charts."""
    for group in root.iter(f"{{{SVG}}}g"):
        gid = group.attrib.pop("id", "")
        if gid and not NUMBERED.search(gid):
            group.set("class", gid)
    for unwanted in ("width", "height", "version"):
        del root.attrib[unwanted]
    for part in [part for part in root if part.find(f"{{{SVG}}}style") is not None]:
        root.remove(part)  # a style sheet, which would be one of the whole page
    root.set("role", "img")
    root.set("style", "stroke-linejoin: round")
    root.set("aria-labelledby", f"{text.name}-title {text.name}-desc")
    root.insert(0, _element("title", text.title, id=f"{text.name}-title"))
    root.insert(1, _element("desc", text.description, id=f"{text.name}-desc"))


@dataclass(frozen=True)
class GrowthChart:
    """The growth of a patient: its chart, what the chart shows, sentences, and measured sizes by day as text."""

    svg: Markup
    curve: GrowthCurve
    sentences: list[str]
    rows: list[tuple[str, str]]

    @classmethod
    def of(cls, growth: GrowthFile | None, patient: PatientForecast, days_ahead: Sequence[float] = ()) -> Self | None:
        """From the growth file where it has the patient, else what the archive holds.

        days_ahead: where growth was forecast for several days. None where the forecast was of sizes that were asked
        for, and there is no growth file.
        """
        aims = _aims(patient, days_ahead)
        if growth is None or patient.patient_id not in growth:
            if patient.curve is None:
                return None
            curve = GrowthCurve.from_columns(patient.curve, patient.size_name or "size")
            return cls._drawn(curve, patient, aims, [])
        forecast = growth.forecast(patient.patient_id)
        fit = forecast.fit
        law = f"Law: {fit.law}, fit {str(fit.status).replace('_', ' ')}; forecast: {forecast.forecaster}."
        notes = [law, *(words.without_paths(note) for note in fit.notes)]
        if patient.curve is None:
            notes.insert(0, "The forecast was made for a size that was asked for, not for this curve.")
        first, aimed = float(fit.series.days[0]), max(aims.values(), default=None)
        last = None if aimed is None else aimed + BEYOND * (aimed - first)
        return cls._drawn(GrowthCurve.from_forecast(forecast, last), patient, aims, notes)

    @classmethod
    def _drawn(cls, curve: GrowthCurve, patient: PatientForecast, aims: dict[str, float], notes: list[str]) -> Self:
        days, sizes = curve.observed_days.tolist(), curve.observed_sizes.tolist()
        unit = words.THIN_SPACE + size_label(curve.size_name).rpartition("(")[2].rstrip(")")
        bands = " and ".join(band.label for band in curve.bands)
        text = ChartText(
            "growth-chart",
            "Growth curve",
            f"Measured sizes, the median of the forecast and its {bands} bands, over days. The measured sizes stand in "
            "the table below.",
        )
        marked = {"forecast from": float(patient.day)} | aims
        courses = curve.treatment.radiotherapy if curve.treatment else ()
        tooltips = {
            "measured": [f"day {day:g}: {size:,.0f}{unit}" for day, size in zip(days, sizes, strict=True)],
            "radiotherapy": [f"Radiotherapy, {_course(course)}" for course in courses],
        }
        return cls(
            inline_svg(text, lambda axes: plot_growth(axes, curve, marked_days=marked), tooltips),
            curve,
            [*_treatment(curve.treatment), *notes],
            [(f"{day:g}", f"{words.grouped(size)}{unit}") for day, size in zip(days, sizes, strict=True)],
        )


def _aims(patient: PatientForecast, days_ahead: Sequence[float]) -> dict[str, float]:
    """The days that were aimed at, by what is written at them; none where a size was asked for."""
    if len(days_ahead) > 1:
        return {f"+{ahead:g} d": float(patient.day + ahead) for ahead in days_ahead}
    return {} if patient.target_day is None else {"aimed at": float(patient.target_day)}


def _treatment(treatment: Treatment | None) -> list[str]:
    """The treatment in sentences."""
    if treatment is None:
        return ["Treatment is not in the archive; a report made with --growth shows it."]
    sentences = [f"Radiotherapy: {_course(course)}." for course in treatment.radiotherapy]
    for drug in treatment.chemotherapy:
        end = f"to day {drug.end_days:g}" if np.isfinite(drug.end_days) else "without an end"
        sentences.append(f"Chemotherapy: day {drug.start_days:g} {end}.")
    sentences += [f"Resection: day {day:g}." for day in treatment.resection_days]
    return sentences or ["No treatment is known."]


def _course(course: RadiotherapyCourse) -> str:
    dose = "" if course.dose_gy is None else f", {course.dose_gy:g} Gy"
    fractions = "" if course.fractions is None else f" in {course.fractions} fractions"
    return f"day {course.start_days:g} to {course.end_days:g}{dose}{fractions}"


@dataclass(frozen=True)
class AreasBySlice:
    """Tumour areas in mm² of N slices: numbers, present, reached: (N,); aimed: (3, N) median, 5 and 95 % of members."""

    slices: npt.NDArray[np.float64]
    present: npt.NDArray[np.float64]
    aimed: npt.NDArray[np.float64]
    reached: npt.NDArray[np.float64]


def areas_chart(areas: AreasBySlice) -> Markup:
    """The areas slice by slice, from the feet up, from left to right."""
    text = ChartText(
        "areas-chart",
        "Tumour area of each slice",
        "Area now, the range aimed at and the area reached, slice by slice. The same numbers stand in the table below.",
    )
    return inline_svg(text, lambda axes: _draw_areas(axes, areas), {})


def _draw_areas(axes: Axes, areas: AreasBySlice) -> None:
    x, (median, low, high) = areas.slices, areas.aimed
    dashed: dict[str, Any] = {"linestyle": (0, (3, 3)), "linewidth": 1}
    axes.plot(x, areas.present, "s", color=NOW_COLOUR, markersize=8, gid="now", **dashed)
    axes.vlines(x, low, high, color=plot.FORECAST_COLOUR, linewidth=2, gid="aimed-range")
    axes.plot(x, median, "o", color=plot.FORECAST_COLOUR, gid="aimed", **dashed)
    axes.plot(x, areas.reached, "x", color=plot.INK_COLOUR, markeredgewidth=2, gid="reached")
    axes.set(
        xlim=(x.min() - 1, x.max() + 1), ylim=(0, 1.1 * max(areas.present.max(), high.max(), areas.reached.max(), 1))
    )
    axes.set(xlabel="slice, from the feet up", ylabel="tumour area (mm²)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
