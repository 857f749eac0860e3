"""The names of the files and folders of a run root. Every module that touches the disk takes them from here."""

from __future__ import annotations

from pathlib import Path

from matterstack.errors import RunRootError, UsageError
from matterstack.hints import Hint

LEDGER = "state.sqlite"
JOURNAL = "journal.jsonl"
SEGMENTS = "journal"  # folder of its older parts
CAMPAIGN = "campaign.yaml"
OPERATORS = "operators.yaml"
SETTINGS = "set.json"  # what --set gave, of a version
SITE = "site.yaml"  # the file given with --operators, of a version
RUN = "run.json"
MAKING = ".making"  # names an attempt that is being made by hand, until it is in its place
LOCK = "run.lock"
SOURCE, TASKS, RESULTS = "source", "tasks", "results"  # folders
VERSIONS = "versions"  # folder: one for each version of the campaign, never changed
OF_VERSION = (CAMPAIGN, OPERATORS, SOURCE)  # links in the run root to those of the newest version
ENVIRONMENTS = "environments"  # where and with what attempts ran; `environments.py`
AFTER_SETUP = ".environment"  # in an attempt's folder: PATH, environments and modules after `setup`
ENVIRONMENT = "environment"  # the key of run.json and task.json that names one
EXPANDED = "expanded"  # campaigns and instances as they were expanded, each file named by its sha256

# In an attempt's folder.
TASK = "task.json"
COMMAND = "command.sh"
CLAIM = "claim"
STDOUT, STDERR = "stdout.log", "stderr.log"
EXIT = "exit.json"
DEFECT = "defect.txt"
INSTRUCTIONS = "instructions.md"
RESPONSE_SCHEMA = "response_schema.json"
RESPONSE = "response.json"
STATUS = "status.json"
REQUEST = "experiment_request.json"
RESULT = "experiment_result.json"
HEARTBEAT = "heartbeat.json"
CANCEL = "cancel.json"
DIGESTS = "outputs.sha256"
METRICS = "metrics.json"
GITIGNORE = "/state.sqlite*\n/run.lock\n/.parcel-*\n/tasks/**/.exit.json\n"  # the last are there for a moment
GITATTRIBUTES = (
    "journal.jsonl text eol=lf\n/journal/*.jsonl text eol=lf\n/campaign.yaml -text\n/operators.yaml -text\n/run.json -text\n"
    "/tasks/** -text\n/source/** -text\n/versions/** -text\n/results/** -text\n"
)


def require_run_root(root: Path) -> Path:
    """Return the root if it is one. Raises UsageError in words if not."""
    if (root / RUN).is_file():
        return root
    if not root.exists():
        if Path(RUN).is_file() and not root.is_absolute():
            raise UsageError(f"RUN comes first: inside a run root write `. {root}`")
        raise UsageError(f"{root}: no such run root; `matterstack init FILE` makes one")
    if root.is_file():
        raise UsageError(f"{root} is a file, not a run root; {Hint('run', root)} starts a campaign file")
    if (root / LEDGER).exists() or (root / JOURNAL).exists():
        raise RunRootError(f"{root}: run.json is missing; restore it from git or a backup")
    raise UsageError(f"{root} is not a run root (it has no run.json); `matterstack init FILE` makes one")


def attempt_folder(task_id: str, attempt: int) -> str:
    """Return the path of an attempt's folder below the run root."""
    return f"tasks/{task_id}/attempt-{attempt}"


def version_folder(version: int) -> str:
    """Return the path of the folder of a version of the campaign, below the run root."""
    return f"{VERSIONS}/{version}"


KEPT_TABLES = ".tables"  # in source/: tables as they were at init, which say what the instances are
