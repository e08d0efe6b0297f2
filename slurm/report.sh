#!/usr/bin/env bash
# Write the HTML report of an archive of forecasts, a rank a core; `tumorcast report` does the work.
#
#   sbatch slurm/report.sh MAPS --out FOLDER …     from the checkout, options as of tumorcast report
#
# The job ends as the command does: 0; 1 if some pages failed; 2 to 4 if it could not be done.
#SBATCH --job-name=tumorcast-report
#SBATCH --output=%x-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=1
#SBATCH --time=01:00:00
set -euo pipefail

if ! command -v srun >/dev/null; then
    echo "report: srun is needed, and not found; submit this with sbatch, or run bin/tumorcast report itself" >&2
    exit 2
fi
if [[ ! -x .venv/bin/python ]]; then # sbatch runs a copy of this file: only the working folder tells where the checkout is
    echo "report: no .venv/bin/python here; submit it from the checkout" >&2
    exit 2
fi

export OMP_NUM_THREADS=1
srun --ntasks="${SLURM_NTASKS:-8}" --cpus-per-task=1 --mpi="${TUMORCAST_MPI:-pmix}" \
    .venv/bin/python -m mpi4py -m tumorcast report --json "$@"
