#!/usr/bin/env bash
# Write the HTML report of an archive of forecasts, on a rank a core of any number of nodes; `tumorcast report` does the
# work. TUMORCAST_REPORT_RANKS_PER_NODE: other than a rank a core.
# Usage: sbatch slurm/report.sh [--dry-run] MAPS --out FOLDER …, as `tumorcast report` takes it.
# The job ends as the command does. It is also the job of forecast_cohort.sh --submit --report.
#SBATCH --job-name=tumorcast-report
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
set -euo pipefail

# SLURM runs a copy of this file, which has nothing beside it: the project is where the job's command was.
home=${TUMORCAST_HOME:-$(dirname "${BASH_SOURCE[0]}")/..}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    home=$(scontrol show job "${SLURM_JOB_ID:-0}" | sed -n 's/^ *Command=//p')
    home=${home%%/slurm/report.sh*}
fi
[[ -f $home/slurm/lib/main.bash ]] || home=${SLURM_SUBMIT_DIR:-$PWD}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    echo "report: the project was not found; set TUMORCAST_HOME to its folder" >&2
    exit 2
fi
home=$(cd "$home" && pwd)
# shellcheck source=slurm/lib/main.bash
source "$home/slurm/lib/main.bash"
run_either report 'an archive and --out' "$@"
