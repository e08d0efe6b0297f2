#!/usr/bin/env python3
"""A stand-in for sbatch, srun, scontrol, scancel and squeue: what a job of this project asks of SLURM, at once.

It is called by any of these names; $FAKE_SLURM is the folder of its jobs, where calls.txt has every command line. Jobs
run on this machine as soon as they may; they see the variables, signals, requeues and dependencies that SLURM gives
them. Ranks are processes side by side, without PMIx. test_jobs.py runs the same job on a real cluster and here.
"""

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("FAKE_SLURM", "."))
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
KILL_WAIT_SECONDS = 3
Record = dict[str, Any]


def split_options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options before the first other word, and the words from there on."""
    options = {}
    for place, word in enumerate(words):
        if not word.startswith("--"):
            return options, words[place:]
        name, _, value = word[2:].partition("=")
        options[name] = value
    return options, []


def read(job: str) -> Record:
    record: Record = json.loads((FOLDER / f"{job}.json").read_text(encoding="utf-8"))
    return record


@contextmanager
def changing(job: str) -> Iterator[Record]:
    """The record of a job, written when the block ends; one process at a time."""
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = read(job)
        yield record
        part = FOLDER / f"{job}.part"
        part.write_text(json.dumps(record), encoding="utf-8")
        part.replace(FOLDER / f"{job}.json")


def sbatch(words: list[str]) -> int:
    given, (script, *arguments) = split_options(words)
    text = Path(script).read_text(encoding="utf-8")
    in_script = [shlex.split(line)[0] for line in re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)]
    options = split_options(in_script)[0] | given
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = str(1 + sum(1 for _ in FOLDER.glob("*.json")))
        record = {
            "state": "PENDING",
            "reason": "None",
            "code": 0,
            "restarts": 0,
            "options": options,
            "command": f"{Path(script).resolve()} {' '.join(arguments)}".strip(),
            "arguments": arguments,
            "folder": str(Path.cwd()),
            "ranks": [],
        }
        (FOLDER / f"{job}.json").write_text(json.dumps(record), encoding="utf-8")
    spool = FOLDER / f"job{job}"  # a copy, that has nothing beside it
    spool.mkdir()
    (spool / "slurm_script").write_text(text, encoding="utf-8")
    runner = [sys.executable, "-S", __file__, "run", job]
    with (FOLDER / "runners.log").open("ab") as log:
        subprocess.Popen(runner, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    print(job)
    return 0


def run(words: list[str]) -> int:
    """Run a job to its end, as often as it is requeued."""
    (job,) = words
    if not _wait_for_dependency(job):
        return 0
    while True:
        code = _run_once(job)
        with changing(job) as record:
            if record.pop("requeued", False) and record["state"] == "RUNNING":
                record["restarts"] += 1
                continue
            if record["state"] == "RUNNING":
                record["state"] = "FAILED" if code else "COMPLETED"
            else:
                record["state"] = record["ended_by"]
            record["code"] = code
        return 0


def _wait_for_dependency(job: str) -> bool:
    kind, _, other = read(job)["options"].get("dependency", "").partition(":")
    assert kind in ("", "afterok"), kind
    while True:
        state = read(job)["state"]
        if state != "PENDING":
            return False
        if not kind or (met := read(other)["state"]) == "COMPLETED":
            break
        if met in ENDS:
            with changing(job) as record:
                record["state"], record["reason"] = "CANCELLED", "DependencyNeverSatisfied"
            return False
        time.sleep(0.05)
    with changing(job) as record:
        if record["state"] == "PENDING":
            record["state"] = "RUNNING"
        return bool(record["state"] == "RUNNING")


def _run_once(job: str) -> int:
    """Run the batch script, and tell it of its time limit as it asked; its exit code."""
    record = read(job)
    options = record["options"]
    start = time.time()
    end = start + _seconds(options.get("time", "60"))
    name = options.get("job-name", "slurm_script")
    log = Path(record["folder"]) / options.get("output", "slurm-%j.out").replace("%x", name).replace("%j", job)
    heard, _, ahead = options.get("signal", "").removeprefix("B:").partition("@")
    signals = [(end - int(ahead), heard)] if heard else []
    with log.open("ab") as out:
        words = ["bash", str(FOLDER / f"job{job}" / "slurm_script"), *record["arguments"]]
        batch = subprocess.Popen(
            words,
            cwd=record["folder"],
            env=_environment(job, record, int(end)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        with changing(job) as record:
            record["batch"], record["ranks"] = batch.pid, []
        while batch.poll() is None:
            if signals and time.time() > signals[0][0]:
                batch.send_signal(f"SIG{signals.pop()[1]}")
            if time.time() > end:
                _cancel(job, "TIMEOUT")
            if read(job)["state"] == "COMPLETING":
                _end(job, batch)
            time.sleep(0.05)
    return batch.returncode if batch.returncode >= 0 else 128 - batch.returncode


def _end(job: str, batch: "subprocess.Popen[bytes]") -> None:
    """TERM to all of the job, and KILL to those who do not heed it."""
    for process in (*read(job)["ranks"], batch.pid):
        _signal(process, signal.SIGTERM)
    try:
        batch.wait(KILL_WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(batch.pid, signal.SIGKILL)
        batch.wait()


def _environment(job: str, record: Record, end: int) -> dict[str, str]:
    options, nodes = record["options"], int(record["options"].get("nodes", "1"))
    cores = int(options.get("cpus-per-task", "1")) * int(options.get("ntasks-per-node", "1"))
    gpus = int(options.get("gres", "none").rpartition(":")[2].replace("none", "0"))
    told = {
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_CPUS_PER_NODE": f"{cores}(x{nodes})" if nodes > 1 else str(cores),
        "SLURM_JOB_NODELIST": f"n[1-{nodes}]" if nodes > 1 else "n1",
        "SLURM_JOB_END_TIME": str(end),
        "SLURM_SUBMIT_DIR": record["folder"],
    }
    if gpus:
        listed = ",".join(map(str, range(gpus)))
        told |= {"SLURM_GPUS_ON_NODE": str(gpus), "SLURM_JOB_GPUS": listed, "CUDA_VISIBLE_DEVICES": listed}
    if record["restarts"]:
        told["SLURM_RESTART_COUNT"] = str(record["restarts"])
    return {**os.environ, **told}


def srun(words: list[str]) -> int:
    """Start the ranks, hand signals on to them, and end with the largest of their codes."""
    options, command = split_options(words)
    count, a_node = int(options["ntasks"]), int(options.get("ntasks-per-node", options["ntasks"]))
    ranks = []
    for rank in range(count):
        told = {
            "SLURM_PROCID": str(rank),
            "SLURM_NTASKS": str(count),
            "SLURM_LOCALID": str(rank % a_node),
            "SLURMD_NODENAME": f"n{1 + rank // a_node}",
        }
        ranks.append(subprocess.Popen(command, env={**os.environ, **told}))

    def hand_on(number: int, _: object) -> None:
        for rank in ranks:
            rank.send_signal(number)

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    with changing(os.environ["SLURM_JOB_ID"]) as record:
        record["ranks"] = [rank.pid for rank in ranks]
    codes = [rank.wait() for rank in ranks]
    return max(code if code >= 0 else 128 - code for code in codes)


def scancel(words: list[str]) -> int:
    """Cancel a job; with --signal tell its ranks, with --batch too the batch script."""
    options, (job,) = split_options(words)
    if "signal" in options:
        record, number = read(job), getattr(signal, f"SIG{options['signal']}")
        for process in [record["batch"]] if "batch" in options else record["ranks"]:
            _signal(process, number)
        return 0
    _cancel(job, "CANCELLED")
    return 0


def _cancel(job: str, ended_by: str) -> None:
    with changing(job) as record:
        if record["state"] == "PENDING":
            record["state"] = ended_by
        elif record["state"] == "RUNNING":
            record["state"], record["ended_by"] = "COMPLETING", ended_by


def scontrol(words: list[str]) -> int:
    match [word for word in words if word != "-o"]:
        case ["show", "hostnames", nodes]:
            last = re.fullmatch(r"n\[1-(\d+)\]", nodes)
            print("\n".join(f"n{k + 1}" for k in range(int(last[1]) if last else 1)))
        case ["show", "job", job]:
            told = read(job)
            end = "\n   " if "-o" not in words else " "
            fields = {
                "JobId": job,
                "JobState": told["state"],
                "Reason": told["reason"],
                "Restarts": told["restarts"],
                "ExitCode": f"{told['code']}:0",
                "Command": told["command"],
            }
            print(end.join(f"{name}={value}" for name, value in fields.items()))
        case ["requeue", job]:
            with changing(job) as record:
                record["requeued"] = True
        case _:
            print(f"fake scontrol: {words}", file=sys.stderr)
            return 1
    return 0


def squeue(words: list[str]) -> int:
    """As `squeue --noheader --jobs ID --format %T`."""
    job, form = words[words.index("--jobs") + 1], words[words.index("--format") + 1]
    assert form == "%T", form
    print(read(job)["state"])
    return 0


def _seconds(limit: str) -> int:
    """Of MINUTES or HOURS:MINUTES:SECONDS."""
    hours, minutes, seconds = ([0, 0, *map(int, limit.split(":"))][-3:]) if ":" in limit else (0, int(limit), 0)
    return 3600 * hours + 60 * minutes + seconds


def _signal(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def main() -> int:
    commands = {"sbatch": sbatch, "srun": srun, "scancel": scancel, "scontrol": scontrol, "squeue": squeue, "run": run}
    name, words = Path(sys.argv[0]).name, sys.argv[1:]
    if words[:1] == ["run"]:
        name, words = "run", words[1:]
    else:
        with (FOLDER / "calls.txt").open("a", encoding="utf-8") as calls:
            calls.write(shlex.join([name, *words]) + "\n")
    return commands[name](words)


if __name__ == "__main__":
    sys.exit(main())
