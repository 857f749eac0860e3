"""Whether files of a run root are still what was recorded of them."""

from __future__ import annotations

from pathlib import Path

from matterstack.core.model import OutputFile
from matterstack.run_root.files import digest_of_listing, sha256_of


def digest_or_none(path: Path, *, folder: bool = False) -> str | None:
    """Return the digest of a file, or of the files of a folder; None for what cannot be read."""
    try:
        if not folder:
            return sha256_of(path)
        return digest_of_listing(
            {file.relative_to(path).as_posix(): sha256_of(file) for file in path.rglob("*") if file.is_file()}
        )
    except OSError:
        return None


def output_problem(root: Path, folder: str, output: OutputFile, *, digests: bool) -> str:
    """Return what is wrong with a recorded output, as a predicate; "" for nothing."""
    path = root / folder / output.file
    is_folder = output.file.endswith("/")
    if not path.exists():
        return "is missing"
    if not (path.is_dir() if is_folder else path.is_file()):
        return f"is no longer a {'folder' if is_folder else 'file'}"
    if not digests:
        return ""
    now = digest_or_none(path, folder=is_folder)
    if now is None:
        return "cannot be read"
    if output.sha256 is not None and now != output.sha256:
        return f"is not what the task made: sha256 {now[:12]}…, recorded {output.sha256[:12]}…"
    return ""
