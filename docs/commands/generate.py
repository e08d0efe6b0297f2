"""Write docs/commands/reference/: a page a command, from the same declarations as its --help.

.venv/bin/python docs/commands/generate.py            writes the pages
.venv/bin/python docs/commands/generate.py --check    names those that are not current, and ends with 1 if any is
"""

import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from tumorcast.cli.main import app

FOLDER = Path(__file__).parent
REFERENCE = FOLDER / "reference"
MADE = "<!-- Made by docs/commands/generate.py from `tumorcast {} --help`. Do not edit: change the command. -->\n"


def pages() -> dict[str, str]:
    """The text of each page, by the name of its command."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="tumorcast")
    return {name: _page(name, command, context) for name, command in sorted(root.commands.items())}


def _page(name: str, command: object, context: typer.Context) -> str:
    told = get_docs_for_click(obj=command, ctx=context, name=name, call_prefix="tumorcast")
    more = f"\nMore: [{name}](../{name}.md).\n" if (FOLDER / f"{name}.md").is_file() else ""
    return MADE.format(name) + told.strip() + "\n" + more


def stale() -> list[Path]:
    """The pages that are not as they would be written now; also those of commands that are gone."""
    wanted = {REFERENCE / f"{name}.md": text for name, text in pages().items()}
    there = set(REFERENCE.glob("*.md"))
    changed = [path for path, text in wanted.items() if path not in there or path.read_text(encoding="utf-8") != text]
    return sorted([*changed, *there - wanted.keys()])


def write() -> None:
    """Write every page, and remove those of commands that are gone."""
    REFERENCE.mkdir(exist_ok=True)
    for path in stale():
        path.unlink(missing_ok=True)
    for name, text in pages().items():
        (REFERENCE / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        found = stale()
        print("\n".join(f"{path}: not current; run docs/commands/generate.py" for path in found))
        sys.exit(bool(found))
    write()
