"""The sizes of simulated patients as a table for growth_forecast.py, from the simulation.json of `tumorcast simulate`.

benchmarks/simulated_sizes.py SIMULATION.json SIZES.csv
"""

import argparse
import csv
import json
from pathlib import Path


def main() -> None:
    """Read, write: a row a scan, volume_mm3, and the course of radiotherapy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulation", type=Path)
    parser.add_argument("table", type=Path)
    arguments = parser.parse_args()
    with arguments.table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "day", "volume_mm3", "rt_start_day", "rt_end_day"])
        for patient in json.loads(arguments.simulation.read_text(encoding="utf-8"))["patients"]:
            course = patient["schedule"]["course"]
            radiotherapy = [course["start_days"], course["end_days"]] if course else ["", ""]
            for day, size in zip(patient["schedule"]["scan_days"], patient["volume_mm3"], strict=True):
                writer.writerow([patient["patient_id"], day, size, *radiotherapy])


if __name__ == "__main__":
    main()
