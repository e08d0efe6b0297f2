#!/usr/bin/env bash
# How the demo model was made: simulate, prepare, train, export. docs/models/demo64.md has the wall times.
# Usage: tumorcast/models/demo64/recipe.sh WORK_FOLDER    (resumable: start it again with the same folder)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tumorcast="$here/../../../bin/tumorcast"
work=${1:?give a folder for the simulated cohort and the runs}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
mkdir -p "$work"
if [ ! -f "$work/cohort.h5" ]; then
    rm -rf "$work/simulated"
    "$tumorcast" simulate "$work/simulated" --patients 360 --seed 20261123 --sessions 3 --voxel-mm 2 --jobs 2
    "$tumorcast" prepare "$work/simulated" --clinical "$work/simulated/clinical.csv" \
        --image-size 64 --slices all --jobs 2 --out "$work/cohort.h5"
fi
"$tumorcast" train regressor "$work/cohort.h5" --out "$work/regressor" --steps 3000 --seed 11 --bfloat16
"$tumorcast" train segmenter "$work/cohort.h5" --out "$work/segmenter" --steps 600 --seed 2 --noise-levels 20 --bfloat16
"$tumorcast" train denoiser "$work/cohort.h5" --out "$work/denoiser" --steps 3600 --seed 3 --bfloat16
for run in regressor segmenter denoiser; do # what is shipped: the averaged weights, rounded to half precision
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
"$tumorcast" export "$work/shipped" --out "$work/bundle"
cp "$work/bundle"/* "$here/"
