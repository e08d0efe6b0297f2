"""Files that are there by name alone: links to nothing, and the small texts that stand for content elsewhere."""

from pathlib import Path

POINTERS = {  # how the text begins, and what fetches the content
    b"version https://git-lfs": ("a Git LFS pointer", "git lfs pull"),
    b"/annex/objects/": ("a git-annex pointer", "datalad get"),
    b"../.git/annex/objects/": ("a git-annex pointer", "datalad get"),
}
LONGEST_POINTER = 32 * 1024


def is_dangling(path: Path) -> bool:
    """Whether it is a link whose target is not there; False for a name that no file can have."""
    try:
        return path.is_symlink() and not path.exists()
    except (OSError, ValueError):
        return False


def why_absent(path: Path) -> str:
    """Why a file has no content here and what fetches it, as a message; empty where it has, or is not at all."""
    if is_dangling(path):
        annexed = ".git/annex/objects" in path.readlink().as_posix()
        remedy = (
            f"datalad get {path}" if annexed else "correct the link, or copy the file here (datalad get, if DataLad's)"
        )
        return f"{path}: a link to a file that is not here{' (git-annex)' if annexed else ''}; {remedy}"
    try:
        if not path.is_file() or path.stat().st_size > LONGEST_POINTER:
            return ""
        if path.stat().st_size == 0:
            return f"{path}: is empty (0 bytes); copy it again"
        with path.open("rb") as file:
            start = file.read(max(map(len, POINTERS)))
    except (OSError, ValueError):
        return ""
    for words, (what, command) in POINTERS.items():
        if start.startswith(words):
            return f"{path}: is {what}, its content is not here; fetch it: {command} {path}"
    return ""
