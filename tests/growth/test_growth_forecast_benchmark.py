"""benchmarks/growth_forecast.py and simulated_sizes.py as they are called."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def simulation(path: Path, patients: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    course = {"start_days": 30.0, "end_days": 72.0, "dose_gy": None, "fractions": None}
    made = [
        {
            "patient_id": f"S{seed}{k:02d}",
            "schedule": {"scan_days": [0.0, 50.0, 110.0, 150.0], "course": course if k % 2 else None},
            "volume_mm3": np.exp(9 + np.cumsum(rng.normal(0, 0.4, 4))).tolist(),
        }
        for k in range(patients)
    ]
    path.write_text(json.dumps({"patients": made}))
    return path


def called(script: str, *arguments: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_simulated_patients_are_a_table_and_are_scored_by_a_prior(tmp_path: Path) -> None:
    table = tmp_path / "sizes.csv"
    called("simulated_sizes.py", simulation(tmp_path / "simulation.json", 5, 1), table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and [row["day"] for row in rows[:4]] == ["0.0", "50.0", "110.0", "150.0"]
    assert (rows[0]["rt_start_day"], rows[4]["rt_start_day"], rows[4]["rt_end_day"]) == ("", "30.0", "72.0")
    told: dict[str, Any] = json.loads(
        called("growth_forecast.py", "--table", table, "--size-column", "volume_mm3", "--prior", "shipped",
               "--chosen-on", "every-second")
    )  # fmt: skip
    assert {name: part["cases"] for name, part in told["parts"].items()} == {"all": 10, "chosen": 6, "others": 4}
    assert told["parts"]["all"]["forecasters"]["persistence"]["over_persistence"]["crps_ratio"] == 1.0
    assert "cohort_steps" not in told["parts"]["all"]["forecasters"]


def test_two_tables_are_one_cohort_and_a_table_is_a_part(tmp_path: Path) -> None:
    tables = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for number, table in enumerate(tables):
        called("simulated_sizes.py", simulation(tmp_path / "simulation.json", 8, number), table)
    told: dict[str, Any] = json.loads(
        called("growth_forecast.py", "--table", tables[0], "--table", tables[1], "--size-column", "volume_mm3",
               "--folds", 2, "--same-person", "S000=S107", "--chosen-on", tables[1])
    )  # fmt: skip
    assert told["patients"] == 16 and told["parts"]["all"]["cases"] == 32
    assert told["parts"]["chosen"]["cases"] == told["parts"]["others"]["cases"] == 16
    assert (told["parts"]["all"]["patients"], told["parts"]["chosen"]["patients"]) == (15, 8)
    assert "cohort_steps" in told["parts"]["all"]["forecasters"]
