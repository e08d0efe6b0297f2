#!/usr/bin/env bash
# From a cohort's scans to the maps of its next scans, as one SLURM job or as a chain of jobs.
#
#   sbatch slurm/forecast_cohort.sh SOURCE --out FOLDER --model MODEL --horizon-days D [OPTIONS]
#   slurm/forecast_cohort.sh --submit SOURCE --out FOLDER …    a job for each step, each after the one before
#   slurm/forecast_cohort.sh --dry-run [--submit] …            only print what would be submitted and run
#
# SOURCE: a folder of scans, a sessions.csv, or a cohort.h5. FOLDER gets cohort.h5, growth.h5, bundle/ and maps.h5; where
# they are asked for, evaluation/ and report/.
#
#   --model MODEL            a shipped model (demo128), an engine bundle, or RUN folders (repeat), which are exported first;
#                            scans are prepared to its image size and contrasts
#   --horizon-days D         forecast D days after the last scan; or
#   --relative-change R      aim at the present area times 1 + R; then no growth is fitted
#   --clinical TABLE         scan days and treatment
#   --members M, --provider cuda|tensorrt|torch|cpu (default cuda), --size-column NAME (default area_mm2)
#   --truth COHORT           evaluate the maps against the later scans in this cohort file
#   --report                 write the HTML report, with the evaluation if there is one
#   --prepare-options '…', also --fit-…, --export-…, --forecast-…, --merge-…, --evaluate-… and --report-options: of that
#                            command
#
# Every option is also a variable, as TUMORCAST_HORIZON_DAYS: docs/slurm.md. Resources: options of sbatch before the
# script (sbatch --nodes=2 --gres=gpu:4 …), and with --submit TUMORCAST_SBATCH, TUMORCAST_FORECAST_SBATCH ….
# Submitting the same again goes on where it was stopped. Ends with 0; with 1 if some patients failed.
#SBATCH --job-name=tumorcast
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=24:00:00
set -euo pipefail

# SLURM runs a copy of this file, which has nothing beside it: the project is where the job's command was.
home=${TUMORCAST_HOME:-$(dirname "${BASH_SOURCE[0]}")/..}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    home=$(scontrol show job "${SLURM_JOB_ID:-0}" | sed -n 's/^ *Command=//p')
    home=${home%%/slurm/forecast_cohort.sh*}
fi
[[ -f $home/slurm/lib/main.bash ]] || home=${SLURM_SUBMIT_DIR:-$PWD}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    echo "forecast_cohort: the project was not found; set TUMORCAST_HOME to its folder" >&2
    exit 2
fi
home=$(cd "$home" && pwd)
# shellcheck source=slurm/lib/main.bash
source "$home/slurm/lib/main.bash"
run_script cohort "$@"
