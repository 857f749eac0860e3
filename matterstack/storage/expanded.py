"""expanded/: campaigns and instances as they were expanded, each file named by the sha256 of its text.

Events name them, so that a ledger can be made from the journal without the campaign's YAML.
"""

from __future__ import annotations

from pathlib import Path

from matterstack.errors import RunRootError
from matterstack.run_root.files import read_regular, sha256_of_text, sync, write_beside
from matterstack.run_root.layout import EXPANDED


def digest_of_text(text: str) -> str:
    """Return the name of a file of expanded/ with this text."""
    return sha256_of_text(text)


def write_expanded(root: Path, text: str) -> str:
    """Write a file of expanded/, synced; return its name, the sha256 of its text."""
    digest = digest_of_text(text)
    folder = root / EXPANDED
    folder.mkdir(exist_ok=True)
    path = folder / f"{digest}.json"
    if not path.exists():
        write_beside(path, text)
        sync(path)
        sync(folder)
    return digest


def read_expanded(root: Path, digest: str) -> str:
    """Return a file of expanded/. Raises RunRootError if it is missing or not what its name says."""
    path = root / EXPANDED / f"{digest}.json"
    try:
        data = read_regular(path)
    except OSError as error:
        raise RunRootError(f"{path}: cannot be read: {error.strerror}; restore it from git or a backup") from None
    import hashlib  # as in `run_root.files`

    if hashlib.sha256(data).hexdigest() != digest:
        raise RunRootError(f"{path} was edited: its name is its sha256; restore it from git or a backup")
    return data.decode()
