#!/usr/bin/env bash
# The first step alone: read a cohort's scans into FOLDER/cohort.h5, on the cores of one node; with
# TUMORCAST_PREPARE_RANKS_PER_NODE over ranks of all nodes, as is worth it with --prepare-options '--register rigid'.
# Usage: sbatch slurm/prepare.sh OPTIONS, those of forecast_cohort.sh
#SBATCH --job-name=tumorcast-prepare
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
    home=${home%%/slurm/prepare.sh*}
fi
[[ -f $home/slurm/lib/main.bash ]] || home=${SLURM_SUBMIT_DIR:-$PWD}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    echo "prepare: the project was not found; set TUMORCAST_HOME to its folder" >&2
    exit 2
fi
home=$(cd "$home" && pwd)
# shellcheck source=slurm/lib/main.bash
source "$home/slurm/lib/main.bash"
run_script prepare "$@"
