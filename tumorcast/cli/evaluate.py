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
    model: Annotated[list[Path] | None, typer.Option(help=f"For unguided diffusion. {A_MODEL}")] = None,
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
    from tumorcast.evaluation.evaluate import EvaluationSettings, Evaluator
    from tumorcast.evaluation.tables import write_evaluation

    settings = EvaluationSettings(_named(baselines, model), _size_given(size), max_days_off)
    if members is not None and not model:
        raise UsageError(f"--members {members}: of unguided diffusion, which needs --model; the archive has its own")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; give a folder")
    with MapArchive.open(maps) as archive, Cohort.open(truth) as cohort:
        unguided = None
        if model:
            unguided = _unguided(archive, cohort, engine_choice(model, provider, device, cache=engine_cache), members)
        with progress("patients", "nothing was written; start it again") as tell:
            evaluation = Evaluator(archive, cohort, settings, unguided).evaluate(tell)
    summaries = write_evaluation(out, evaluation)
    for outcome in evaluation.outcomes:
        tell_fate(outcome.patient_id, None, outcome.status, outcome.reason)
    for note in evaluation.notes:
        typer.echo(note, err=True)
    print_result(as_json, _result(out, evaluation, summaries))
    exit_if_failed(sum(outcome.status == "failed" for outcome in evaluation.outcomes))


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


def _unguided(archive: Any, cohort: Any, wanted: Any, members: int | None) -> Any:
    """What makes unguided diffusion, with the settings of the forecast."""
    from tumorcast.engines.opening import open_engine
    from tumorcast.engines.protocol import check_same_images
    from tumorcast.evaluation.baselines import Unguided
    from tumorcast.settings import ForecastSettings

    settings = ForecastSettings.of(archive.provenance["settings"], str(archive.path))
    engine = open_engine(wanted)
    check_same_images(cohort, engine.info.images)
    if members is not None:
        sampler = settings.sampler.model_copy(update={"encodings": members})
        settings = settings.model_copy(update={"members": members, "sampler": sampler})
    return Unguided(engine, settings)


def _result(out: Path, evaluation: Any, summaries: Any) -> dict[str, Any]:
    """What is printed: counts, and the growth map's and the baselines' chief figures."""
    from tumorcast.evaluation.tables import jsonable
    from tumorcast.records import count_by_status

    figures = {
        str(line.method): {name: line.means[name].value for name in HEADLINE if name in line.means}
        for line in summaries.methods
    }
    return {
        "out": str(out),
        "patients": count_by_status(evaluation.outcomes),
        "slices": sum(len(patient.slices) for patient in evaluation.patients),
        "size": evaluation.record["settings"]["size"],
        "methods": jsonable(figures),
    }
