"""What every command writes and prints on a small simulated cohort: to see what a change of the code changes for users.

    benchmarks/outputs.py record OUT.json [--tumorcast bin/tumorcast]     a quarter of an hour on one core
    benchmarks/outputs.py compare BEFORE.json AFTER.json                  ends with 1 if they differ

Recorded are help pages, exit codes, the JSON of each command, and sums of the content of each file written. Times,
rates, memory, paths and versions are left out, as they differ from run to run. Images, pages and models are recorded by
name.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filters

TABLE = Path(__file__).parents[2] / "shared" / "data" / "mu_glioma_post" / "volumes.csv"
CHANGES = re.compile(
    r"second|rate$|_s$|_gb$|_mb$|hours|version|commit|time|host|bytes|sha256|path|digest_of|device|python|a_minute|salt|^told$|provenance",
    re.IGNORECASE,
)
COMMANDS = """
simulate scans --patients 3 --voxel-mm 2 --seed 5 --sessions 4
prepare scans --clinical scans/clinical.csv --dry-run --table sessions.csv
prepare scans --clinical scans/clinical.csv --image-size 128 --out cohort.h5
prepare early.csv --clinical scans/clinical.csv --allow-unmatched --image-size 128 --out early.h5
prepare early.csv --image-size 64 --register rigid --deformable --n4 --qc qc --out registered.h5
fit early.h5 --size-column area_mm2 --replicates 200 --out growth.h5 --plots growth
fit cohort.h5 --size-column area_mm2 --replicates 200 --held-out last --held-out-csv held-out.csv
fit {table} --size-column enhancing_oedema_mm3 --prior none --out mu.h5
fit-prior {table} --size-column enhancing_mm3 --out prior.json
train denoiser registered.h5 --steps 2 --batch 2 --out runs/denoiser
train regressor registered.h5 --steps 2 --batch 2 --out runs/regressor
train segmenter registered.h5 --steps 2 --batch 2 --out runs/segmenter
train progression registered.h5 --steps 2 --batch 2 --out runs/progression
export runs --max-batch 4 --out bundle
doctor
forecast early.h5 --model demo128 --growth growth.h5 --horizon-days 60 {small} --keep-members --out maps.h5
forecast early.h5 --model demo128 --relative-change 0.25 {small} --no-merge --out change.h5
forecast early.h5 --model demo128 --relative-change 0.25 --preset paper --noise-level 60 {one} --out paper.h5
status change.h5
archive merge change.h5
archive info maps.h5
archive layout maps.h5
archive verify maps.h5
archive digest maps.h5
archive digest paper.h5
archive digest change.h5
archive unpack maps.h5 --out unpacked
archive repack maps.h5 --out repacked.h5
show maps.h5 --out pictures
evaluate maps.h5 --truth cohort.h5 --model demo128 --members 1 --out evaluation
evaluate maps.h5 --truth cohort.h5 --size truth --baselines no_change,dilation --out evaluation-truth
report maps.h5 --growth growth.h5 --evaluation evaluation --out report
export-maps maps.h5 --bids derivatives
reader-study make maps.h5 --truth cohort.h5 --seed 1 --count 6 --out study
experiment ode cohort.h5 --size-column area_mm2 --replicates 50 --out ode
experiment timepoints cohort.h5 --size-column area_mm2 --replicates 50 --out timepoints
experiment grid cohort.h5 {images} --noise-level 100 --gain 0.5 --members 1 --out grid
experiment consistency cohort.h5 {images} --members 2 --seeds 2 --out consistency
experiment failures cohort.h5 {images} --members 2 --out failures
experiment hindsight cohort.h5 {images} --grid points.toml --paper-members 0 --out hindsight
select early.h5 --model demo128 --patient {patient} --grid points.toml --steps 2 --relative-change 0.25 --out select
"""
UNLIKE = "tfevents"  # named by the second
PARTS = {
    "table": str(TABLE),
    "small": "--members 2 --max-slices 1 --steps 3 --seed 1",
    "one": "--members 1 --max-slices 1",
    "images": "--model demo128 --patients 1 --steps 2",
    "patient": "SIM-00001",
}
POINTS = "noise_level = [100]\ngain = [0.5, 1.0]\nmembers = [2]\n"


def without_last(source: Path, target: Path) -> None:
    """Write the table of sessions without each patient's last."""
    with source.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    last = {row["patient"]: k for k, row in enumerate(rows)}
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for k, row in enumerate(rows) if k not in last.values())


def content(path: Path) -> str:
    """A sum of what a file says, or only that it is there."""
    if path.suffix == ".h5":
        return h5_sum(path)
    if path.suffix == ".csv":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix == ".json":
        return hashlib.sha256(json.dumps(lasting(json.loads(path.read_text("utf-8")))).encode()).hexdigest()
    return "there"


def h5_sum(path: Path) -> str:
    """Over names, types and values of each data set; attributes tell times and versions."""
    found = hashlib.sha256()

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and not CHANGES.search(name):
            value = item[()]
            found.update(f"{name} {item.dtype.kind} {item.shape}".encode())
            found.update(value if isinstance(value, bytes) else repr(value.tolist()).encode())

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found.hexdigest()


def lasting(value: Any) -> Any:
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: lasting(each) for key, each in sorted(value.items()) if not CHANGES.search(key)}
    if isinstance(value, list):
        return [lasting(each) for each in value]
    return "path" if isinstance(value, str) and "/tmp" in value else value


def record(tumorcast: Path) -> dict[str, Any]:
    """Run every command."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    recorded: dict[str, Any] = {"help": helps(tumorcast, environment), "commands": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "points.toml").write_text(POINTS, encoding="utf-8")
        for command in COMMANDS.strip().splitlines():
            print(command, file=sys.stderr, flush=True)
            known = set(folder.rglob("*"))
            words = [str(tumorcast), *command.format_map(PARTS).split(), "--json"]
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            lines = done.stdout.strip().splitlines()
            printed = lasting(json.loads(lines[-1])) if done.returncode in (0, 1) and lines else done.stderr[-2000:]
            made = sorted(
                path for path in folder.rglob("*") if path not in known and path.is_file() and UNLIKE not in path.name
            )
            files = {str(path.relative_to(folder)): content(path) for path in made}
            recorded["commands"][command] = {"code": done.returncode, "json": printed, "files": files}
            if "--table" in words:
                without_last(folder / "sessions.csv", folder / "early.csv")
    return recorded


def helps(tumorcast: Path, environment: dict[str, str]) -> dict[str, str]:
    """The help page of every command and of every command of these."""
    pages: dict[str, str] = {}
    waiting: list[list[str]] = [[]]
    while waiting:
        words = waiting.pop(0)
        done = subprocess.run(
            [tumorcast, *words, "--help"], env=environment, capture_output=True, text=True, check=True
        )
        pages[" ".join(words)] = done.stdout
        commands = re.search(r"╭─ Commands.*?╰", done.stdout, re.DOTALL)
        if commands:
            waiting += [[*words, name] for name in re.findall(r"^│ (\S+)", commands[0], re.MULTILINE)]
    return pages


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """A line for each value that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from differences(before.get(key), after.get(key), f"{place} › {key}" if place else key)
    elif before != after:
        yield f"{place}: {str(before)[:120]} → {str(after)[:120]}"


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--tumorcast", type=Path, default=Path(__file__).parents[1] / "bin" / "tumorcast")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "record":
        options.out.write_text(json.dumps(record(options.tumorcast), indent=1), encoding="utf-8")
        return 0
    lines = list(differences(*(json.loads(path.read_text("utf-8")) for path in (options.before, options.after))))
    print("\n".join(lines) or "the same")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
