#!/usr/bin/env bash
# An experiment on a cohort, over ranks; `tumorcast experiment` does the work. Units that are finished are kept.
# Usage: sbatch --nodes=2 --gres=gpu:4 slurm/experiment.sh [--dry-run] NAME COHORT --model BUNDLE --out FOLDER …, as
# `tumorcast experiment` takes it. A rank a GPU of each node, one where there is none: TUMORCAST_EXPERIMENT_RANKS_PER_NODE
#SBATCH --job-name=tumorcast-experiment
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
set -euo pipefail

# SLURM runs a copy of this file, which has nothing beside it: the project is where the job's command was.
home=${TUMORCAST_HOME:-$(dirname "${BASH_SOURCE[0]}")/..}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    home=$(scontrol show job "${SLURM_JOB_ID:-0}" | sed -n 's/^ *Command=//p')
    home=${home%%/slurm/experiment.sh*}
fi
[[ -f $home/slurm/lib/main.bash ]] || home=${SLURM_SUBMIT_DIR:-$PWD}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    echo "experiment: the project was not found; set TUMORCAST_HOME to its folder" >&2
    exit 2
fi
home=$(cd "$home" && pwd)
# shellcheck source=slurm/lib/main.bash
source "$home/slurm/lib/main.bash"
run_alone experiment 'an experiment and a cohort' "$@"
