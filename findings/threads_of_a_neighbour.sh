#!/usr/bin/env bash
# numba's first parallel function makes torch use every core, though OMP_NUM_THREADS=1 was set before both started.
#
# torch reads OMP_NUM_THREADS; numba does not, it counts cores (NUMBA_NUM_THREADS). With its OpenMP layer numba starts
# its threads by setting OpenMP's number for the whole process, and torch's CPU build asks OpenMP whenever it computes: so
# in a process that uses both, torch has one thread before the first parallel function of numba and all cores after it.
# Processes side by side, as MPI ranks or test workers that were given a core each, then wait for each other.
# NUMBA_NUM_THREADS=1 beside it keeps torch to one. Seen on Linux with two cores or more, with PyPI's wheels.
# Ends with 0 if it is so, with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check numba==0.68.1 torch==2.13.0 numpy==2.2.6 2>pip.log || {
    cat pip.log >&2
    exit 2
}
cat >both.py <<'PYTHON'
import numba
import numpy as np
import torch


@numba.njit(parallel=True)
def total(values):
    result = 0.0
    for place in numba.prange(values.size):
        result += values[place]
    return result


before = torch.get_num_threads()
total(np.ones(1000))
print(numba.threading_layer(), before, torch.get_num_threads())
PYTHON
unset NUMBA_NUM_THREADS NUMBA_THREADING_LAYER
cores=$(env -u OMP_NUM_THREADS nproc)
((cores > 1)) || {
    echo "one core: nothing to see" >&2
    exit 2
}
alone=$(OMP_NUM_THREADS=1 environment/bin/python both.py)
told=$(OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 environment/bin/python both.py)
echo "numba 0.68.1, torch 2.13.0, $cores cores: layer, threads of torch before and after numba's first parallel function"
echo "OMP_NUM_THREADS=1: $alone"
echo "OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1: $told"
[[ $alone == "omp 1 $cores" && $told == "omp 1 1" ]] || {
    echo "changed: expected 'omp 1 $cores' and 'omp 1 1'" >&2
    exit 1
}
