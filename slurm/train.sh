#!/usr/bin/env bash
# Train a network: on a process a GPU of any number of nodes, which share every batch. A job that is requeued goes on
# from the last checkpoint, with the losses it would have had.
# Usage: sbatch --nodes=2 --gres=gpu:4 slurm/train.sh [--dry-run] NETWORK COHORT --out RUN …, as `tumorcast train` takes
#SBATCH --job-name=tumorcast-train
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
    home=${home%%/slurm/train.sh*}
fi
[[ -f $home/slurm/lib/main.bash ]] || home=${SLURM_SUBMIT_DIR:-$PWD}
if [[ ! -f $home/slurm/lib/main.bash ]]; then
    echo "train: the project was not found; set TUMORCAST_HOME to its folder" >&2
    exit 2
fi
home=$(cd "$home" && pwd)
# shellcheck source=slurm/lib/main.bash
source "$home/slurm/lib/main.bash"

open_alone train 'a network and a cohort' "$@"

nodes=${SLURM_JOB_NUM_NODES:-1} cores=$(cores_a_node) ranks=${TUMORCAST_TRAIN_RANKS_PER_NODE:-$(gpus_a_node)}
threads=$((cores / ranks > 0 ? cores / ranks : 1))
launch=(srun --nodes="$nodes" --ntasks=$((nodes * ranks)) --ntasks-per-node="$ranks" --cpus-per-task="$threads")
launch+=(--kill-on-bad-exit=1 --mpi=none "${python[@]}" -m tumorcast train "${words[@]}")
if [[ -n $dry_run ]]; then
    print_command "${launch[@]}"
    exit 0
fi
[[ -n ${SLURM_JOB_ID:-} ]] || refuse "there is no SLURM job here; submit with sbatch; --dry-run shows what it runs"

# Where the processes meet: they take their ranks from SLURM.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS=$threads
heed_signals
code=0
run_heard train "${launch[@]}" || code=$?
end_job train "$code"
