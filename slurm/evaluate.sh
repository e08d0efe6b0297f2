#!/usr/bin/env bash
# Judge an archive of forecasts against the scans that came, on one node; `tumorcast evaluate` does the work.
#
#   sbatch slurm/evaluate.sh MAPS --truth COHORT --out FOLDER …     from the checkout, options as of tumorcast evaluate
#
# No GPU is needed, except for unguided diffusion: sbatch --gres=gpu:1 slurm/evaluate.sh … --model BUNDLE --provider cuda
# The job ends as the command does: 0; 1 if some patients failed; 2 to 4 if it could not be done.
#SBATCH --job-name=tumorcast-evaluate
#SBATCH --output=%x-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail

if ! command -v srun >/dev/null; then
    echo "evaluate: srun is needed, and not found; submit this with sbatch, or run bin/tumorcast evaluate itself" >&2
    exit 2
fi
if [[ ! -x bin/tumorcast ]]; then # sbatch runs a copy of this file: only the working folder tells where the checkout is
    echo "evaluate: no bin/tumorcast here; submit it from the checkout" >&2
    exit 2
fi

cores=${SLURM_CPUS_PER_TASK:-8} # srun does not take it over from sbatch
export OMP_NUM_THREADS=$cores
srun --ntasks=1 --cpus-per-task="$cores" bin/tumorcast evaluate --json "$@"
