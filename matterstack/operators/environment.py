"""The environment of the work: what commands get of the shell that starts them, and what of it is kept on record.

The campaign decides: threads follow its cpus, and the environment that the user has activated comes first. Only names
of modules and paths are recorded, no values of variables.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from matterstack.version import __version__

# Libraries that start as many threads as there are cpus unless one of these says otherwise.
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip
_SHELLS = ("bash", "sh")
_PYTHONS = ("python", "python3")


def threads(cpus: int) -> dict[str, str]:
    """Return the variables that keep a command to its cpus."""
    return dict.fromkeys(THREADS, str(cpus))


def ambient(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what every command gets of the environment of whoever starts it."""
    given = {name: value for name, value in environ.items() if name}
    return {"PYTHONUNBUFFERED": "1", **given, "PATH": command_path(environ)}  # so that a log shows what was printed


def command_path(environ: Mapping[str, str]) -> str:
    """Return the PATH of commands: an active environment first, the folder of MatterStack's own `python` last."""
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    own = os.path.dirname(sys.executable)
    for name in ("CONDA_PREFIX", "VIRTUAL_ENV"):
        active = environ.get(name)
        folder = os.path.join(active, "bin") if active else ""
        behind = folder in folders and own in folders[: folders.index(folder)]
        if folder and os.path.isdir(folder) and (behind or folder not in folders):
            folders = [folder, *(other for other in folders if other != folder)]
    return os.pathsep.join([*folders, *([] if own in folders else [own])])


def find_program(name: str, path: str) -> str | None:
    """Return where a PATH finds a program."""
    for folder in path.split(os.pathsep):
        found = os.path.join(folder or ".", name)
        if os.access(found, os.X_OK) and os.path.isfile(found):
            return found
    return None


def describe(environ: Mapping[str, str], path: str | None = None) -> dict[str, Any]:
    """Return what is recorded of an environment, as JSON values; ``path`` is the PATH of commands if it is another."""
    return {**_this_process(), **describe_shell(environ, command_path(environ) if path is None else path)}


def describe_shell(environ: Mapping[str, str], path: str) -> dict[str, Any]:
    """Return the part that `setup` may change."""
    loaded = environ.get("LOADEDMODULES", "")
    return {
        "path": path.split(os.pathsep),
        "python": next((found for name in _PYTHONS if (found := find_program(name, path))), None),
        "shell": next((found for name in _SHELLS if (found := find_program(name, path))), None),
        "virtual_env": environ.get("VIRTUAL_ENV"),
        "conda_prefix": environ.get("CONDA_PREFIX"),
        "modules": [name for name in loaded.split(":") if name],
    }


@cache
def _this_process() -> dict[str, Any]:
    system = os.uname()
    return {
        "host": system.nodename,
        "user": _user(),
        "platform": f"{system.sysname} {system.release} {system.machine}",
        "matterstack": __version__,
        "matterstack_python": f"{sys.executable} {'.'.join(map(str, sys.version_info[:3]))}",
    }


def _user() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        return str(os.geteuid())
