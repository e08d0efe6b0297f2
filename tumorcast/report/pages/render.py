"""From templates to pages: Jinja with everything escaped, styles and scripts put in, and what a page may load.

A page loads nothing but `static/niivue.umd.js` of its own folder: its Content-Security-Policy forbids all else, and
lets no script run but that one and its own, which it knows by their SHA-256.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tumorcast.counted import counted
from tumorcast.provenance import commit
from tumorcast.report.pages import words
from tumorcast.report.sizes import ml
from tumorcast.version import VERSION

HERE = Path(__file__).parent
GENERATOR = "tumorcast report"
SHARED = "static"  # in the report's folder: what its pages share
VIEWER = ("niivue.umd.js", "niivue.licences.txt")


def render(template: str, **context: Any) -> str:
    """A page from its template and what it shows."""
    return _environment().get_template(template).render(context)


@cache
def asset(name: str) -> str:
    """The text of a style sheet or script that is put into a page."""
    return (HERE / "static" / name).read_text(encoding="utf-8")


def own(name: str) -> Markup:
    """A style sheet or script of ours, to stand in a page as it is; nothing of a patient's is in it."""
    return Markup(asset(name))


def policy(*scripts: str) -> str:
    """The Content-Security-Policy of a page with these scripts of ours."""
    sums = " ".join(f"'sha256-{_sha256(asset(name))}'" for name in scripts)
    return (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {sums} 'self' file:; base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "own": own,
        "policy": policy,
        "words": words,
        "generator": GENERATOR,
        "shared": SHARED,
        "version": VERSION,
        "commit": commit(),
        "ml": ml,
        "counted": counted,
    }
    return environment
