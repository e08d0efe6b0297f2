#!/usr/bin/env bash
# How the demo model was made: simulate, prepare, train, export. docs/models/demo128.md has the wall times.
# Usage: tumorcast/models/demo128/recipe.sh WORK_FOLDER    (resumable: start it again with the same folder)
# On one H200 with 16 cores the whole took 7 minutes; on two cores count two days. --until is where the lease ended.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tumorcast="$here/../../../bin/tumorcast"
work=${1:?give a folder for the simulated cohorts and the runs}
jobs=${JOBS:-2}
mkdir -p "$work"
cohort() { # NAME PATIENTS SEED
    [ -f "$work/$1.h5" ] && return
    rm -rf "${work:?}/$1"
    "$tumorcast" simulate "$work/$1" --patients "$2" --seed "$3" --sessions 4 --voxel-mm 2 --jobs "$jobs"
    "$tumorcast" prepare "$work/$1" --clinical "$work/$1/clinical.csv" --image-size 128 --slices balanced --jobs "$jobs" --out "$work/$1.h5"
}
train() { # NETWORK COHORT STEPS UNTIL SEED [OPTIONS]
    "$tumorcast" train "$1" "$work/$2.h5" --out "$work/$1" --config "$here/train.toml" --steps "$3" --until "$4" --seed "$5" "${@:6}"
}
cohort a 104 20261126
cohort b 160 20261127
train denoiser a 1900 1650 3
train progression b 1700 900 5
train regressor b 1300 900 11
train segmenter b 500 500 2 --noise-levels 20
for run in denoiser progression regressor segmenter; do # what is shipped: the averaged weights, rounded to half precision
    mkdir -p "$work/shipped/$run"
    cp "$work/$run/run.json" "$work/shipped/$run/"
    "$here/../../../.venv/bin/python" - "$work/$run" "$work/shipped/$run" <<'PYTHON'
import sys
from pathlib import Path
from safetensors.torch import load_file, save
source, target = (Path(name) / "weights.safetensors" for name in sys.argv[1:])
target.write_bytes(save({name: value.half() for name, value in load_file(source).items()}))
PYTHON
done
rm -rf "$work/bundle"
"$tumorcast" export "$work/shipped" --out "$work/bundle" --boxes
cp "$work/bundle"/* "$here/"
