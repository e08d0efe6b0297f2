"""The inner loops: arrays in, arrays out; numpy and numba, and torch in guided_step alone. No files, no checks, no
logging, no settings; `compiling` alone finds a folder for machine code, and says where there is none.

The folder is reached as `tumorcast.kernels` (tumorcast/kernels links here) and under no other name: a second name would
compile, cache and load every kernel twice.
"""

import os
import sys

if __name__ != "tumorcast.kernels":
    raise ImportError(f"this package is tumorcast.kernels, not {__name__!r}: write `import tumorcast.kernels`")

# numba looks at NUMBA_NUM_THREADS alone, as it is imported, and starting its threads makes OpenMP's number the same in
# the whole process: with OMP_NUM_THREADS alone torch would use every core in each of the processes that share a machine
# (findings/threads_of_a_neighbour.sh). A numba that has been imported refuses another number.
if os.environ.get("OMP_NUM_THREADS", "").isdecimal() and "numba" not in sys.modules:
    os.environ.setdefault(
        "NUMBA_NUM_THREADS", str(min(max(int(os.environ["OMP_NUM_THREADS"]), 1), os.cpu_count() or 1))
    )
