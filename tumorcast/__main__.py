"""`python -m tumorcast`, and so `mpirun -n 4 python -m mpi4py -m tumorcast …`."""

from tumorcast.cli.main import main

if __name__ == "__main__":
    main()
