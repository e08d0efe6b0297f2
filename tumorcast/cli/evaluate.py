"""The command evaluate: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tumorcast.cli.forecast_options import A_MODEL, Device, EngineCache, ProviderName, engine_choice
from tumorcast.cli.options import Json, Out, choice, exit_if_failed, print_result, progress, tell_fate
from tumorcast.errors import UsageError

HEADLINE = ("ap", "dice", "hd95_mm")


def evaluate(
    maps: Annotated[Path, typer.Argument(help="maps.h5 of `tumorcast forecast`.")],
    truth: Annotated[Path, typer.Option(help="A cohort file with the later scans.")],
    out: Out,
    baselines: Annotated[
        str,
        typer.Option(help="all, none, or some of no_change,dilation,fisher_kolmogorov,segmenter_distance,unguided."),
    ] = "all",
    size: Annotated[
        str, typer.Option(help="The area every outline is given: aimed (by the forecast) or truth.")
    ] = "aimed",
    max_days_off: Annotated[float, typer.Option(min=0, help="Most days between a scan and the day aimed at.")] = 45.0,
    model: Annotated[
        list[Path] | None, typer.Option(help=f"For unguided diffusion and segmenter + distance in 3-D. {A_MODEL}")
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, help="Of unguided diffusion; default: as the forecast's encodings.")
    ] = None,
    provider: ProviderName = "",
    device: Device = None,
    engine_cache: EngineCache = None,
    as_json: Json = False,
) -> None:
    """Judge an archive of forecasts, and what needs less, against the scans that came."""
    from tumorcast.extra import check_extra

    check_extra()
    from tumorcast.archive.maps import MapArchive
    from tumorcast.data.cohort import Cohort
    from tumorcast.evaluation.evaluate import EvaluationSettings

    settings = EvaluationSettings(_named(baselines, model), _size_given(size), max_days_off)
    if members is not None and not model:
        raise UsageError(f"--members {members}: of unguided diffusion, which needs --model; the archive has its own")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    with MapArchive.open(maps) as archive, Cohort.open(truth) as cohort:
        judged = _Judge(archive, cohort, settings, out, _engine(model, provider, device, engine_cache))
        has_slices, has_volumes = archive.count_slices() > 0, bool(archive.record.get("volumes"))
        result: dict[str, Any] = {"out": str(out)}
        if has_slices or not has_volumes:
            result |= judged.slices(members)
        if has_volumes:
            result["volumes"] = judged.volumes(alone=not has_slices)
    print_result(as_json, result)
    exit_if_failed(judged.failed)


class _Judge:
    """What of an archive is judged, told as it goes; counts those that failed."""

    def __init__(self, archive: Any, cohort: Any, settings: Any, out: Path, engine: Any) -> None:
        self.archive, self.cohort, self.settings, self.out, self.engine = archive, cohort, settings, out, engine
        self.failed = 0

    def slices(self, members: int | None) -> dict[str, Any]:
        """The slices: files, and what is printed."""
        from tumorcast.evaluation.evaluate import Evaluator
        from tumorcast.evaluation.tables import write_evaluation

        unguided = None if self.engine is None else self._unguided(members)
        with progress("patients", "nothing was written; start it again") as tell:
            evaluation = Evaluator(self.archive, self.cohort, self.settings, unguided).evaluate(tell)
        summaries = write_evaluation(self.out, evaluation)
        told = self._told(evaluation, summaries, None)
        slices = {"slices": sum(len(patient.slices) for patient in evaluation.patients)}
        return told | slices | {"size": evaluation.record["settings"]["size"]}

    def volumes(self, *, alone: bool) -> dict[str, Any]:
        """The volumes: files, and what is printed. alone: whether there is nothing else to judge."""
        from tumorcast.evaluation.evaluate import none_judged
        from tumorcast.evaluation.volume_baselines import PlaneSegmenter
        from tumorcast.evaluation.volume_evaluator import VolumeEvaluator
        from tumorcast.evaluation.volume_tables import VolumeSummaries, write_volumes

        segmenter = None if self.engine is None else PlaneSegmenter(self.engine, self._forecast_settings().batch)
        with progress("patients", "no volume was judged; start it again") as tell:
            evaluation = VolumeEvaluator(self.archive, self.cohort, self.settings, segmenter).evaluate(tell)
        if not evaluation.patients and alone:
            raise none_judged(self.archive, evaluation.outcomes)
        judged = bool(evaluation.patients)
        summaries = write_volumes(self.out, evaluation) if judged else VolumeSummaries([], [])
        return self._told(evaluation, summaries, "volume")

    def _told(self, evaluation: Any, summaries: Any, what: str | None) -> dict[str, Any]:
        """Fates and notes on stderr; counts, and the growth map's and the baselines' chief figures."""
        from tumorcast.evaluation.tables import jsonable
        from tumorcast.records import count_by_status

        for outcome in evaluation.outcomes:
            tell_fate(outcome.patient_id, what, outcome.status, outcome.reason)
        for note in evaluation.notes:
            typer.echo(note, err=True)
        figures = {
            str(line.method): {name: line.means[name].value for name in HEADLINE if name in line.means}
            for line in summaries.methods
        }
        counts = count_by_status(evaluation.outcomes)
        self.failed += counts["failed"]
        return {"patients": counts, "methods": jsonable(figures)}

    def _forecast_settings(self) -> Any:
        """Those of the archive."""
        from tumorcast.settings import ForecastSettings

        return ForecastSettings.of(self.archive.provenance["settings"], str(self.archive.path))

    def _unguided(self, members: int | None) -> Any:
        """What makes unguided diffusion, with the settings of the forecast."""
        from tumorcast.engines.protocol import check_same_images
        from tumorcast.evaluation.baselines import Unguided

        settings = self._forecast_settings()
        check_same_images(self.cohort, self.engine.info.images)
        if members is not None:
            sampler = settings.sampler.model_copy(update={"encodings": members})
            settings = settings.model_copy(update={"members": members, "sampler": sampler})
        return Unguided(self.engine, settings)


def _engine(model: list[Path] | None, provider: str, device: str | None, cache: Path | None) -> Any:
    """The model's engine; None without a model."""
    from tumorcast.engines.opening import open_engine

    return open_engine(engine_choice(model, provider, device, cache=cache)) if model else None


def _named(text: str, model: list[Path] | None) -> Any:
    """The baselines that --baselines names."""
    from tumorcast.evaluation.baselines import Baseline

    if text in ("all", "none"):
        return tuple(Baseline) if text == "all" else ()
    named = tuple(choice(Baseline, "--baselines", name.strip()) for name in text.split(",") if name.strip())
    if Baseline.UNGUIDED in named and not model:
        raise UsageError(f"--baselines {text}: unguided diffusion needs --model")
    return named


def _size_given(word: str) -> Any:
    """The size that --size names."""
    from tumorcast.evaluation.evaluate import SIZE_WORDS

    sizes = {name: size for size, name in SIZE_WORDS.items()}
    if word not in sizes:
        raise UsageError(f"--size {word}: allowed are {', '.join(sizes)}")
    return sizes[word]
