#!/usr/bin/env bash
# Judge an archive of forecasts against the scans that came, on one node; `tumorcast evaluate` does the work.
# Usage: sbatch slurm/evaluate.sh [--dry-run] MAPS --truth COHORT --out FOLDER …, as `tumorcast evaluate` takes it.
# No GPU is needed, except for unguided diffusion: sbatch --gres=gpu:1 slurm/evaluate.sh … --model BUNDLE --provider cuda
# The job ends as the command does. It is also the job of forecast_cohort.sh --submit --truth COHORT.
#SBATCH --job-name=tumorcast-evaluate
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail

# SLURM runs a copy of this file, which has nothing beside it: the project is where the job's command was.
home=${TUMORCAST_HOME:-$(dirname "${BASH_SOURCE[0]}")/..}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    home=$(scontrol show job "${SLURM_JOB_ID:-0}" | sed -n 's/^ *Command=//p')
    home=${home%%/slurm/evaluate.sh*}
fi
[[ -f $home/slurm/lib/main.bash ]] || home=${SLURM_SUBMIT_DIR:-$PWD}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    echo "evaluate: the project was not found; set TUMORCAST_HOME to its folder" >&2
    exit 2
fi
home=$(cd "$home" && pwd)
# shellcheck source=slurm/lib/main.bash
source "$home/slurm/lib/main.bash"
run_either evaluate 'an archive, --truth and --out' "$@"
