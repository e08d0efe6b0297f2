#!/usr/bin/env bash
# How t1c128 was made: simulate, prepare T1c with the enhancing part alone, train, export. docs/models/t1c128.md says more.
# Usage: tumorcast/models/t1c128/recipe.sh WORK_FOLDER    (resumable: start it again with the same folder)
# On one H200 with 16 cores the whole took 6 minutes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tumorcast="$here/../../../bin/tumorcast"
work=${1:?give a folder for the simulated cohort and the runs}
jobs=${JOBS:-2}
mkdir -p "$work"
if [ ! -f "$work/t.h5" ]; then
    rm -rf "${work:?}/t"
    "$tumorcast" simulate "$work/t" --patients 170 --seed 20261201 --sessions 4 --voxel-mm 2 --jobs "$jobs"
    # Patients whose tumour does not enhance are skipped.
    "$tumorcast" prepare "$work/t" --clinical "$work/t/clinical.csv" --image-size 128 --slices balanced \
        --contrasts t1c --tumour enhancing --jobs "$jobs" --out "$work/t.h5"
fi
train() { # NETWORK STEPS SEED NOISE_LEVELS ARCHITECTURE
    printf '%s\n' 'batch = 64' 'bfloat16 = true' 'ema_decay = 0.995' 'checkpoint_every = 100' 'validation_share = 0.0' \
        'sheet_every = 0' "steps = $2" "seed = $3" "noise_levels = $4" '[architecture]' "$5" >"$work/$1.toml"
    "$tumorcast" train "$1" "$work/t.h5" --out "$work/runs/$1" --config "$work/$1.toml"
}
small=$'channel_mult = [1, 1, 2, 2, 2]\nres_blocks = 1'
tiny='channel_mult = [1, 1, 1, 1]'
train denoiser 1600 3 350 "$small"
train regressor 800 11 350 "$tiny"
train segmenter 500 2 20 "$tiny"
for run in denoiser regressor segmenter; do # what is shipped: the averaged weights, rounded to half precision
    mkdir -p "$work/shipped/$run"
    cp "$work/runs/$run/run.json" "$work/shipped/$run/"
    "$here/../../../.venv/bin/python" - "$work/runs/$run" "$work/shipped/$run" <<'PYTHON'
import sys
from pathlib import Path
from safetensors.torch import load_file, save
source, target = (Path(name) / "weights.safetensors" for name in sys.argv[1:])
target.write_bytes(save({name: value.half() for name, value in load_file(source).items()}))
PYTHON
done
rm -rf "$work/bundle"
"$tumorcast" export "$work/shipped" --out "$work/bundle" --boxes --cohort "$work/t.h5"
cp "$work/bundle"/* "$here/"
