"""What the ranks of test_ranks.py run: the last one comes late, and none may go on before it has come."""

import sys
import time
from pathlib import Path

from mpi4py import MPI

from tumorcast.running.ranks import await_all_started


def main() -> None:
    come, world = Path(sys.argv[1]), MPI.COMM_WORLD
    if world.rank == world.size - 1:
        time.sleep(1)
        come.touch()
    await_all_started(MPI)
    print("waited" if come.exists() else "went on", flush=True)
    MPI.Finalize()


if __name__ == "__main__":
    main()
