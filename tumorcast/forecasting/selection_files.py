"""The files of `tumorcast select`: scores of the points tried, their table, and settings that `forecast` reads."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from tumorcast.durable import written_whole
from tumorcast.errors import InputError
from tumorcast.forecasting.select import Point, Selection
from tumorcast.forecasting.selection_scores import Scores
from tumorcast.provenance import refuse_other
from tumorcast.settings import ForecastSettings

SCORES_FILE, TABLE_FILE, SETTINGS_FILE = "scores.json", "scores.csv", "forecast.toml"


@dataclass
class TrialStore:
    """A file with the scores of the points tried, kept after each, so that a stopped search goes on."""

    path: Path
    provenance: dict[str, Any]
    tried: dict[str, Scores] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, provenance: dict[str, Any]) -> Self:
        """Read what is there. Raises UsageError if it was made of something else, InputError if it is no such file."""
        if not path.exists():
            return cls(path, provenance)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            tried = {name: Scores(**scores) for name, scores in record["tried"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: not the scores of `tumorcast select`; give another --out") from None
        refuse_other(path, record["made_of"], provenance)
        return cls(path, provenance, tried)

    def scores(self, point: Point, work: Callable[[], Scores]) -> Scores:
        """The point's scores, from the file or by `work`."""
        if point.name not in self.tried:
            self.tried[point.name] = work()
            tried = {name: asdict(scores) for name, scores in self.tried.items()}
            record = {"made_of": self.provenance, "tried": tried}
            with written_whole(self.path) as temporary:
                temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return self.tried[point.name]


def write_selection(out: Path, selection: Selection, base: ForecastSettings) -> None:
    """Write the table of scores and the chosen settings into the folder `out`."""
    rows = table_of_scores(selection)
    with written_whole(out / TABLE_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with written_whole(out / SETTINGS_FILE) as temporary:
        temporary.write_text(toml_of(selection.chosen.settings(base)), encoding="utf-8")


def table_of_scores(selection: Selection) -> list[dict[str, Any]]:
    """A row a point, for a table; an empty cell where there is no past."""
    return [
        {
            "noise_level": point.noise_level,
            point.strength_name: point.strength,
            "members": point.members,
            **{item.name: getattr(scores, item.name) for item in fields(Scores)},
            "score": scores.total,
            "chosen": int(point == selection.chosen),
        }
        for point, scores in selection.tried
    ]


def toml_of(settings: ForecastSettings) -> str:
    """The settings as `forecast --config` reads them; what is None has no line, which TOML has no word for."""
    values = settings.model_dump(mode="json", exclude_none=True)
    sampler = values.pop("sampler")
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(
        [*lines, "", "[sampler]", *(f"{name} = {json.dumps(value)}" for name, value in sampler.items()), ""]
    )
