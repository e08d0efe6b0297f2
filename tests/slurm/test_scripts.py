"""The job scripts without a cluster: what they print, what they refuse, and what shellcheck says of them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ("prepare", "fit", "export", "forecast", "merge")
ALONE = ("evaluate", "report", "experiment")  # take the words of their command
SCRIPTS = [ROOT / "slurm" / f"{name}.sh" for name in ("forecast_cohort", *STEPS, *ALONE)]
JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "3",
    "SLURM_JOB_CPUS_PER_NODE": "16(x2),12",
    "SLURM_GPUS_ON_NODE": "4",
}
OPTIONS = ("scans", "--out", "out", "--horizon-days", "60")
BUNDLE = ("--model", "demo128")


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TUMORCAST_"))}
    command = [str(ROOT / "slurm" / f"{script}.sh"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean | variables, capture_output=True, text=True, check=False)


DRY_RUNS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "one_job": ("forecast_cohort", (*OPTIONS, *BUNDLE), {}),
    "one_job_of_variables": (
        "forecast_cohort",
        (),
        {
            "TUMORCAST_SOURCE": "my cohort.h5",
            "TUMORCAST_OUT": "out",
            "TUMORCAST_MODEL": "runs/denoiser 'runs/my regressor'",
            "TUMORCAST_RELATIVE_CHANGE": "0.2",
            "TUMORCAST_MEMBERS": "8",
            "TUMORCAST_PROVIDER": "cpu",
            "TUMORCAST_FORECAST_OPTIONS": "--max-slices 2 --config 'my settings.toml'",
            "TUMORCAST_FORECAST_RANKS_PER_NODE": "4",
            "TUMORCAST_PYTHON": "apptainer exec --nv tumorcast.sif python3",
            "TUMORCAST_MPI": "pmi2",
            "TUMORCAST_TRUTH": "later scans.h5",
            "TUMORCAST_REPORT": "1",
        },
    ),
    "chain": (
        "forecast_cohort",
        (
            *("--submit", *OPTIONS, "--model", "runs", "--fit-options=--law gompertz", "--clinical", "clinical.csv"),
            *("--report", "--truth", "later.h5", "--report-options", "--pictures 2"),
        ),
        {
            "TUMORCAST_SBATCH": "--account=neuro",
            "TUMORCAST_FORECAST_SBATCH": "--nodes=4 --gres=gpu:4",
            "TUMORCAST_REPORT_SBATCH": "--time=10",
        },
    ),
    "in_a_job": (
        "forecast_cohort",
        (*OPTIONS, *BUNDLE, "--truth=later.h5", "--evaluate-options", "--size truth", "--report"),
        JOB | {"TUMORCAST_PREPARE_RANKS_PER_NODE": "6"},
    ),
    "evaluate": ("evaluate", ("my maps.h5", "--truth", "later.h5", "--out", "found"), JOB),
    "report": ("report", ("my maps.h5", "--out", "found"), JOB | {"TUMORCAST_REPORT_RANKS_PER_NODE": "2"}),
    "step": ("forecast", (*OPTIONS, "--model", "runs", "--provider", "torch"), {}),
}


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_prints_what_would_be_submitted_and_run(name: str, request: pytest.FixtureRequest) -> None:
    script, arguments, variables = DRY_RUNS[name]
    told = run(script, "--dry-run", *arguments, **variables)
    assert (told.returncode, told.stderr) == (0, "")
    golden = Path(__file__).parent / "golden" / f"{name}.txt"
    assert told.stdout.replace(str(ROOT), "HOME") == golden.read_text(encoding="utf-8")
    assert not (ROOT / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "out", *BUNDLE, "--horizon-days", "9"), "give a folder of scans, a sessions.csv or a cohort.h5"),
        (("scans", *BUNDLE, "--horizon-days", "9"), "give --out, a folder for the results"),
        ((*OPTIONS,), "give --model, as demo128, an engine bundle or RUN folders"),
        (("scans", "--out", "out", *BUNDLE), "give one of --horizon-days and --relative-change"),
        ((*OPTIONS, *BUNDLE, "--relative-change", "0.1"), "give one of --horizon-days and --relative-change"),
        ((*OPTIONS, *BUNDLE, "--max-slices", "2"), "--max-slices: no such option"),
        ((*OPTIONS, "--model"), "--model: its value is missing"),
        ((*OPTIONS, *BUNDLE, "--report=1"), "--report: takes no value"),
        ((*OPTIONS, *BUNDLE), "there is no SLURM job here"),
        ((*OPTIONS, *BUNDLE, "--truth", "nowhere.h5"), "--truth nowhere.h5: no such file; give a cohort file"),
        ((*OPTIONS, *BUNDLE, "--truth", "out/cohort.h5"), "there is no SLURM job here"),
        (("none.h5", *OPTIONS[1:], *BUNDLE), "none.h5: no such file; give a cohort.h5, a folder of scans"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], message: str) -> None:
    told = run("forecast_cohort", *arguments)
    assert told.returncode == 2
    assert message in told.stderr


@pytest.mark.parametrize("how", [("--dry-run",), ("--dry-run", "--submit"), ("--submit",), ()], ids=" ".join)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--image-size 64", "--image-size 64, but the model demo128 takes t1n, t1c, t2w, t2f at 128 px"),
        ("--n4 --contrasts=t1c", "--contrasts t1c, but the model demo128 takes t1n, t1c, t2w, t2f"),
        (None, "its slices are t1n, t1c, t2w, t2f at 64 px, but the model takes t1n, t1c, t2w, t2f at 128 px"),
    ],
)
def test_what_is_not_for_the_model_is_refused_before_sbatch(
    options: str | None, message: str, how: tuple[str, ...], blob_cohort: Path, tmp_path: Path
) -> None:
    """Options of prepare that would make such a cohort, or one that is given."""
    (tmp_path / "sbatch").write_text("#!/usr/bin/env bash\necho submitted\n")
    (tmp_path / "sbatch").chmod(0o755)
    source = (str(blob_cohort),) if options is None else ("scans", f"--prepare-options={options}")
    words = (*how, *source, "--out", str(tmp_path / "out"), "--horizon-days", "60", *BUNDLE)
    told = run("forecast_cohort", *words, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (told.returncode, told.stdout) == (3 if options is None else 2, "")
    assert message in told.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_refused_with_the_names_of_those_shipped(tmp_path: Path) -> None:
    told = run(
        "forecast_cohort", "--submit", "scans", "--out", str(tmp_path / "out"), "--horizon-days", "60", "--model", "x"
    )
    assert told.returncode == 3
    assert "x: no such file or folder; " in told.stderr and "demo128" in told.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_for_the_model_passes(blob_cohort: Path, random_bundle: Path) -> None:
    fitting = ("--prepare-options", "--image-size 64 --contrasts t2f,t1n,t1c,t2w")
    told = run("forecast_cohort", "--dry-run", *OPTIONS, "--model", str(random_bundle), *fitting)
    assert (told.returncode, told.stderr) == (0, "")
    assert f"prepare scans --out out/cohort.h5 --model {random_bundle} --image-size 64" in told.stdout
    told = run("forecast_cohort", "--dry-run", str(blob_cohort), *OPTIONS[1:], "--model", str(random_bundle))
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize("script", ALONE)
def test_a_command_alone_is_refused_without_words_and_without_a_job(script: str) -> None:
    for words, message in (((), f"as tumorcast {script} takes them"), (("maps.h5",), "there is no SLURM job here")):
        told = run(script, *words)
        assert (told.returncode, message in told.stderr) == (2, True), told.stderr


@pytest.mark.parametrize("script", ["evaluate", "report"])
def test_a_command_alone_runs_in_its_job_and_ends_it_with_its_code(script: str, tmp_path: Path) -> None:
    for name, text in (("srun", 'echo "$OMP_NUM_THREADS: $*"; exit 3'), ("scontrol", ""), ("squeue", "")):
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    told = run(script, "my maps.h5", "--out", "found", PATH=path, TUMORCAST_PYTHON=sys.executable, **JOB)
    assert told.returncode == 3, told.stderr
    threads, _, rest = told.stdout.splitlines()[-2 if "ended" in told.stdout.splitlines()[-1] else -1].partition(": ")
    assert int(threads) >= 1 and rest.endswith(f"-m tumorcast {script} my maps.h5 --out found --json")


def test_quotes_that_do_not_match_are_refused() -> None:
    told = run("fit", "--dry-run", *OPTIONS, *BUNDLE, TUMORCAST_FIT_OPTIONS="--law 'gompertz")
    assert told.returncode == 2
    assert "TUMORCAST_FIT_OPTIONS: its quotes do not match" in told.stderr


def test_what_must_be_a_number_is_looked_at_before_anything_runs() -> None:
    told = run("fit", "--dry-run", *OPTIONS, *BUNDLE, TUMORCAST_MAX_REQUEUES="often")
    assert (told.returncode, told.stdout) == (2, "")
    assert "TUMORCAST_MAX_REQUEUES=often: give a whole number" in told.stderr
    for number in ("0", "08"):
        told = run("report", "--dry-run", "maps.h5", TUMORCAST_REPORT_RANKS_PER_NODE=number)
        assert told.returncode == 2
        assert f"TUMORCAST_REPORT_RANKS_PER_NODE={number}: give a whole number of 1 or more" in told.stderr
    told = run("forecast_cohort", "--dry-run", *OPTIONS, *BUNDLE, TUMORCAST_REPORT="yes")
    assert (told.returncode, "TUMORCAST_REPORT=yes: give 1, or leave it out" in told.stderr) == (2, True)


def test_the_sites_file_is_read_first_and_can_set_variables(tmp_path: Path) -> None:
    site = tmp_path / "our site.sh"
    site.write_text("false; echo $UNSET_BY_ANYONE; TUMORCAST_MPI=cray_shasta\n")
    told = run("fit", "--dry-run", *OPTIONS, *BUNDLE, TUMORCAST_ENV=str(site))
    assert "--mpi=cray_shasta" in told.stdout
    told = run("fit", "--dry-run", *OPTIONS, *BUNDLE, TUMORCAST_ENV="/nowhere")
    assert (told.returncode, "TUMORCAST_ENV=/nowhere: no such file" in told.stderr) == (2, True)


def test_help_is_the_comment_at_the_top() -> None:
    for script in ("forecast_cohort", *STEPS, *ALONE):
        told = run(script, "--help")
        assert told.returncode == 0
        assert told.stdout.count("sbatch") and not re.search("^#", told.stdout, re.MULTILINE)


def test_every_script_finds_the_project_in_the_same_way() -> None:
    """They must each have the lines that find it, since a job runs a copy that has nothing beside it."""
    blocks = set()
    for script in SCRIPTS:
        header, block = script.read_text(encoding="utf-8").split("set -euo pipefail\n")
        for line in ("--open-mode=append", "--requeue", "--signal=B:USR1@120", "--output=%x-%j.out"):
            assert f"#SBATCH {line}\n" in header
        blocks.add(re.sub(r"^run_(script|either|alone) .*", "RUN", block.replace(script.stem, "NAME"), flags=re.M))
    assert len(blocks) == 1


@pytest.mark.slow
def test_shellcheck_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        if os.environ.get("CI") == "true":
            pytest.fail("shellcheck is missing, and CI must look at the scripts: bin/setup full installs it")
        pytest.skip("shellcheck is missing on this machine")
    scripts = [path for path in (ROOT / "bin").iterdir() if path.suffix == ""]
    scripts += [
        *sorted((ROOT / "slurm").glob("*.sh")),
        *sorted((ROOT / "tumorcast" / "models").glob("*/recipe.sh")),
        ROOT / ".ci" / "run",
        Path(__file__).with_name("stand_in.sh"),
    ]
    command = [shellcheck, "--external-sources", "--check-sourced", *map(str, scripts)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")
