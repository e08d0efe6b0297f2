"""What tumorcast says of bad input: the whole text of its messages, in tests/golden/messages.txt.

Other tests match the class of an error and the value, file or option that it names. A message that is to change: write
the golden file anew with TUMORCAST_GOLDEN=write, and read what changed in it.
"""

import os
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from tumorcast.cli.main import main

GOLDEN = Path(__file__).with_name("golden") / "messages.txt"
FILES = {
    "bundle/manifest.json": '{"format_version": 9}',
    "days.csv": "patient_id,day,area_mm2\nA,0,900\nA,soon,1200\n",
    "empty.csv": "",
    "few.csv": "patient_id,day,area_mm2\nA,0,900\nB,0,800\nB,60,850\n",
    "model/run.json": "{}",
    "negative.csv": "patient_id,day,area_mm2\nA,0,900\nA,60,-1\n",
    "nocolumn.csv": "patient,day,area_mm2\nA,0,900\n",
    "notes.txt": "not a file of ours\n",
    "prior.json": "{}",
    "rt.csv": "patient_id,day,area_mm2,rt_start_day,rt_end_day\nA,0,900,20,10\nA,60,950,20,10\n",
    "scans/A-000/A-000-t1c.nii.gz": "not an image",
    "sessions.csv": "patient,session,day,t1c\nA,000,0,nowhere.nii.gz\n",
    "settings.toml": "members = 0\n",
    "sizes.csv": "patient_id,day,area_mm2\nA,0,900\nA,60,1200\nA,120,1500\n",
    "syntax.toml": "members = \n",
    "typo.toml": "member = 4\n",
}
COMMANDS = """
prepare nowhere --out c.h5
prepare empty-folder --out c.h5
prepare notes.txt --out c.h5
prepare scans --out c.h5
prepare scans --out c.h5 --image-size 100
prepare scans --out c.h5 --contrasts t1c,t9
prepare scans --out c.h5 --slices most
prepare scans --out c.h5 --labels martian
prepare scans --out c.h5 --brain skull
prepare scans --out c.h5 --register affine
prepare scans --out c.h5 --layout mars
prepare scans --out c.h5 --model demo129
prepare scans --out c.h5 --clinical nowhere.csv
prepare scans --out c.h5 --brain-tool hd-bet
prepare sessions.csv --out c.h5
fit nowhere.csv --out g.h5
fit empty.csv --out g.h5 --size-column area_mm2
fit nocolumn.csv --out g.h5 --size-column area_mm2
fit sizes.csv --out g.h5 --size-column volume
fit days.csv --out g.h5 --size-column area_mm2
fit negative.csv --out g.h5 --size-column area_mm2
fit rt.csv --out g.h5 --size-column area_mm2
fit notes.txt --out g.h5
fit COHORT --out g.h5 --size-column area
fit sizes.csv --size-column area_mm2
fit sizes.csv --out g.h5 --size-column area_mm2 --law cubic
fit sizes.csv --out g.h5 --size-column area_mm2 --noise white
fit sizes.csv --out g.h5 --size-column area_mm2 --replicates 0
fit sizes.csv --out g.h5 --size-column area_mm2 --search slow
fit sizes.csv --out g.h5 --size-column area_mm2 --prior prior.json
fit sizes.csv --out g.h5 --size-column area_mm2 --prior nowhere.json
fit sizes.csv --out g.h5 --size-column area_mm2 --forecaster oracle
fit sizes.csv --size-column area_mm2 --held-out some
train oracle COHORT --out run
train denoiser nowhere.h5 --out run
train denoiser notes.txt --out run
train denoiser COHORT --out run --steps 0
train denoiser COHORT --out run --leave-out Z
train denoiser COHORT --out run --config typo.toml
export empty-folder --out b
export model --out b
export bundle --out b
export notes.txt --out b
plan COHORT --engine demo129
forecast nowhere.h5 --model demo128 --relative-change 0.2 --out m.h5
forecast notes.txt --model demo128 --relative-change 0.2 --out m.h5
forecast COHORT --model demo129 --relative-change 0.2 --out m.h5
forecast COHORT --model bundle --relative-change 0.2 --out m.h5
forecast COHORT --model demo128 --relative-change 0.2 --out m.h5
forecast COHORT --model demo128 --out m.h5
forecast COHORT --model demo128 --relative-change 0.2 --horizon-days 60 --out m.h5
forecast COHORT --model demo128 --horizon-days 60 --out m.h5
forecast COHORT --model demo128 --horizon-days 60 --growth notes.txt --out m.h5
forecast COHORT --model demo128 --relative-change -2 --out m.h5
forecast COHORT --model demo128 --relative-change 0.2 --provider tpu --out m.h5
forecast COHORT --model demo128 --relative-change 0.2 --config settings.toml --out m.h5
forecast COHORT --model demo128 --relative-change 0.2 --config syntax.toml --out m.h5
forecast COHORT --model demo128 --relative-change 0.2 --config typo.toml --out m.h5
forecast COHORT --model demo128 --relative-change 0.2 --guidance none --out m.h5
select COHORT --model demo128 --patient A --relative-change 0.2 --grid typo.toml --out s
status nowhere.h5
evaluate nowhere.h5 --truth COHORT --out e
evaluate notes.txt --truth COHORT --out e
report notes.txt --out r
show notes.txt --out p
export-maps notes.txt --bids b
archive info notes.txt
archive verify nowhere.h5
archive merge nowhere --out m.h5
archive repack notes.txt --out m.h5
experiment grid COHORT --model demo129 --out x
experiment ode notes.txt --out x
"""


@pytest.fixture
def folder(blob_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are started: the files above and a cohort."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "cohort.h5").symlink_to(blob_cohort)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def said(command: str) -> str:
    """The exit code of a command, and what it printed on stderr."""
    words = shlex.split(command.replace("COHORT", "cohort.h5"))
    stdout, stderr = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["tumorcast", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    lines = [line for line in stderr.getvalue().splitlines() if not line.startswith("━")]  # no bars of progress
    return f"{ended.value.code or 0}: {chr(10).join(lines).strip()}"


@pytest.mark.slow
def test_messages_are_the_golden_ones(folder: Path) -> None:
    found = []
    for command in COMMANDS.strip().splitlines():
        message = re.sub(r"-[0-9a-f]{12}\b", "-SUM", said(command).replace(str(folder), "HERE"))
        found.append(f"$ tumorcast {command}\n{message}\n")
    if os.environ.get("TUMORCAST_GOLDEN") == "write":
        GOLDEN.write_text("\n".join(found), encoding="utf-8")
    golden = re.findall(r"^\$ .*?(?=^\$ |\Z)", GOLDEN.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert [text.strip() for text in found] == [text.strip() for text in golden]
    assert not list(folder.glob("*.h5.*"))
