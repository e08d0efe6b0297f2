#!/usr/bin/env bash
# Whether a GPU of this site gives what torch gives, and how fast; `tumorcast doctor` does the work.
#
#   sbatch slurm/gpu_selftest.sh [PROVIDER] [BUNDLE]     from the checkout, after TUMORCAST_RUNTIME=gpu bin/setup full
#
# PROVIDER: cuda (default), tensorrt, torch or cpu. BUNDLE: an engine bundle; default the shipped one.
# The last line of gpu_selftest-JOB.out is one JSON object. The job ends with 0, or with 4 if the provider failed.
# Where the site asks for it: sbatch --partition=… --account=…
#SBATCH --job-name=gpu_selftest
#SBATCH --output=%x-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=00:30:00
set -euo pipefail

if ! command -v srun >/dev/null; then
    echo "gpu_selftest: srun is needed, and not found; submit this with sbatch, or run bin/tumorcast doctor itself" >&2
    exit 2
fi
if [[ ! -x bin/tumorcast ]]; then # sbatch runs a copy of this file: only the working folder tells where the checkout is
    echo "gpu_selftest: no bin/tumorcast here; submit it from the checkout" >&2
    exit 2
fi

cores=${SLURM_CPUS_PER_TASK:-8} # srun does not take it over from sbatch
export OMP_NUM_THREADS=$cores
srun --ntasks=1 --cpus-per-task="$cores" bin/tumorcast doctor --provider "${1:-cuda}" --json ${2:+--model "$2"}
