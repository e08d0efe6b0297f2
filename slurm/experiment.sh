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

case ${1:-} in
-h | --help) usage && exit 0 ;;
--dry-run) dry_run=1 && shift ;;
esac
(($#)) || refuse "give an experiment and a cohort, as tumorcast experiment takes them; see --help"
check_number TUMORCAST_MAX_REQUEUES
check_number TUMORCAST_EXPERIMENT_RANKS_PER_NODE
read_site
python=()
read_words python "${TUMORCAST_PYTHON:-}" TUMORCAST_PYTHON
((${#python[@]})) || python=("$home/.venv/bin/python")

launch_ranks "${SLURM_JOB_NUM_NODES:-1}" "${TUMORCAST_EXPERIMENT_RANKS_PER_NODE:-$(gpus_a_node)}" "$(cores_a_node)"
launch+=(experiment "$@" --json)
if [[ -n $dry_run ]]; then
    print_command "${launch[@]}"
    exit 0
fi
[[ -n ${SLURM_JOB_ID:-} ]] || refuse "there is no SLURM job here; submit with sbatch; --dry-run shows what it runs"
command -v "${python[0]}" >/dev/null || refuse "${python[0]}: not found; run bin/setup, or set TUMORCAST_PYTHON"

export OMP_NUM_THREADS=$threads # a rank can see more cores where the site does not bind it to its own
heed_signals
find_bundled_mpi
tell_time_left
code=0 step=experiment finished=1 # units that were measured before a requeue are kept, so another start is of use
run_watched "${launch[@]}" || code=$?
step=
((signals == 0 || code < 128)) || code=$STOPPED # a signal ended it before it could listen
say "experiment: ended with $code, $(date '+%F %T')"
end_job experiment "$code"
