"""The commands `experiment NAME`, a module each; what they share is in launch, follow_up and sizes."""

from tumorcast.cli.commands import Commands
from tumorcast.cli.experiment.consistency import consistency
from tumorcast.cli.experiment.contrasts import contrasts
from tumorcast.cli.experiment.failures import failures
from tumorcast.cli.experiment.finetune import finetune
from tumorcast.cli.experiment.grid import grid
from tumorcast.cli.experiment.hindsight import hindsight
from tumorcast.cli.experiment.ode import ode
from tumorcast.cli.experiment.timepoints import timepoints

experiment = Commands(
    help="Ask a question of a whole cohort: a table, a picture and a JSON file. Starting again resumes.\n\n"
    "Over MPI ranks: mpirun -n 4 python -m mpi4py -m tumorcast experiment …",
    no_args_is_help=True,
)
for command in (grid, consistency, ode, timepoints, failures, hindsight, finetune, contrasts):
    experiment.command()(command)
