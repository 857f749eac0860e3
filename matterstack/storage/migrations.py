"""The schema of the ledger, version by version.

An entry is never edited once released; a change is a new entry. Its statements run one by one inside one
transaction, since `executescript` would commit first. No feature of SQLite newer than 3.26 (2018) is used: that is
what long-lived clusters have.

Version 2 made events the only way to change a ledger. What version 1 held is not altered but translated into events
(`storage.version_1`), which fill the new tables.
"""

from __future__ import annotations

APPLICATION_ID = 0x4D53544B  # "MSTK"
_LIVE = "('SUBMITTING', 'SUBMITTED', 'RUNNING', 'WAITING')"

_COUNTED = "{row}.state, {row}.soft, {row}.paused, {row}.retry_at IS NOT NULL, " + (
    "{row}.state = 'PENDING' AND {row}.watch IS NULL AND {row}.retry_at IS NULL"
)


def _counting(row: str, change: str) -> str:
    return (
        f"INSERT INTO task_counts VALUES ({_COUNTED.format(row=row)}, {change}) "
        f"ON CONFLICT (state, soft, paused, waits, unlooked) DO UPDATE SET tasks = tasks + ({change});"
    )


SCHEMA_2: tuple[str, ...] = (
    "CREATE TABLE schema_info (version INTEGER NOT NULL, written_by TEXT NOT NULL)",
    """CREATE TABLE run (
        run_id TEXT PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, created_at TEXT NOT NULL,
        epoch INTEGER NOT NULL, paused INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0,
        campaign_path TEXT NOT NULL, source_digest TEXT NOT NULL,
        home_id TEXT NOT NULL, home_inode INTEGER NOT NULL, home_host TEXT NOT NULL, home_path TEXT NOT NULL)""",
    """CREATE TABLE campaign_versions (
        version INTEGER PRIMARY KEY, digest TEXT NOT NULL, created_at TEXT NOT NULL, definition TEXT NOT NULL)""",
    # `reason` of tasks and attempts, and `unlinked`, are a code with values as JSON; "" where there is none.
    """CREATE TABLE tasks (
        task_id TEXT PRIMARY KEY, position INTEGER NOT NULL, group_name TEXT NOT NULL, label TEXT NOT NULL,
        campaign_version INTEGER NOT NULL REFERENCES campaign_versions, matrix TEXT NOT NULL,
        operator TEXT NOT NULL, priority INTEGER NOT NULL, inputs TEXT NOT NULL, outputs TEXT NOT NULL,
        state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', soft INTEGER NOT NULL DEFAULT 0,
        cause TEXT, watch TEXT, retry_at REAL, paused INTEGER NOT NULL DEFAULT 0,
        tries INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, result INTEGER)""",
    "CREATE INDEX tasks_by_group ON tasks (group_name, state)",
    "CREATE INDEX tasks_ready ON tasks (operator, priority DESC, position) WHERE state = 'READY'",
    "CREATE INDEX tasks_watching ON tasks (watch) WHERE watch IS NOT NULL",
    "CREATE INDEX tasks_retrying ON tasks (retry_at) WHERE retry_at IS NOT NULL",
    """CREATE INDEX tasks_unlooked ON tasks (position)
        WHERE state = 'PENDING' AND watch IS NULL AND retry_at IS NULL""",
    """CREATE TABLE task_counts (
        state TEXT NOT NULL, soft INTEGER NOT NULL, paused INTEGER NOT NULL, waits INTEGER NOT NULL,
        unlooked INTEGER NOT NULL, tasks INTEGER NOT NULL,
        PRIMARY KEY (state, soft, paused, waits, unlooked)) WITHOUT ROWID""",
    f"CREATE TRIGGER task_counted AFTER INSERT ON tasks BEGIN {_counting('NEW', '1')} END",
    f"""CREATE TRIGGER task_recounted AFTER UPDATE OF state, soft, paused, watch, retry_at ON tasks
        BEGIN {_counting("OLD", "-1")} {_counting("NEW", "1")} END""",
    f"CREATE TRIGGER task_uncounted AFTER DELETE ON tasks BEGIN {_counting('OLD', '-1')} END",
    """CREATE TABLE edges (
        upstream TEXT NOT NULL, downstream TEXT NOT NULL REFERENCES tasks, entry TEXT NOT NULL,
        PRIMARY KEY (downstream, upstream, entry)) WITHOUT ROWID""",
    "CREATE INDEX edges_by_upstream ON edges (upstream)",
    """CREATE TABLE attempts (
        task_id TEXT NOT NULL REFERENCES tasks, attempt INTEGER NOT NULL, state TEXT NOT NULL,
        operator TEXT NOT NULL, campaign_version INTEGER NOT NULL REFERENCES campaign_versions,
        handle TEXT NOT NULL DEFAULT '', wish TEXT, wished_at REAL,
        created_at REAL NOT NULL, started_at REAL, ended_at REAL, exit_code INTEGER, failure TEXT,
        reason TEXT NOT NULL DEFAULT '', counts INTEGER NOT NULL DEFAULT 0, unclaimed INTEGER NOT NULL DEFAULT 0,
        awaited INTEGER NOT NULL DEFAULT 0, unlinked TEXT NOT NULL DEFAULT '', parcelled INTEGER NOT NULL DEFAULT 0,
        cpus INTEGER NOT NULL DEFAULT 1, memory INTEGER, time_s REAL, source_digest TEXT NOT NULL,
        metrics TEXT, response TEXT, PRIMARY KEY (task_id, attempt))""",
    f"CREATE INDEX attempts_live ON attempts (operator) WHERE state IN {_LIVE}",
    "CREATE INDEX attempts_awaited ON attempts (task_id) WHERE awaited = 1",  # LOST, and nothing was handed over since
    "CREATE INDEX attempts_unlinked ON attempts (task_id) WHERE unlinked <> ''",
    "CREATE INDEX attempts_parcelled ON attempts (created_at) WHERE parcelled = 1",
    """CREATE TABLE attempt_inputs (
        task_id TEXT NOT NULL, attempt INTEGER NOT NULL, upstream TEXT NOT NULL, upstream_attempt INTEGER NOT NULL,
        PRIMARY KEY (task_id, attempt, upstream)) WITHOUT ROWID""",
    "CREATE INDEX attempt_inputs_by_upstream ON attempt_inputs (upstream)",
    """CREATE TABLE outputs (
        task_id TEXT NOT NULL, attempt INTEGER NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL,
        file TEXT NOT NULL, size INTEGER, sha256 TEXT, PRIMARY KEY (task_id, attempt, name)) WITHOUT ROWID""",
    "CREATE TABLE source_files (path TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, line TEXT NOT NULL)",  # as in the journal
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (),  # 1: its tables are dropped by version 2, which never makes them
    SCHEMA_2,
    (
        "ALTER TABLE attempts ADD COLUMN usage TEXT",  # JSON, as in exit.json
        "ALTER TABLE attempts ADD COLUMN gpus INTEGER NOT NULL DEFAULT 0",
    ),
    (),  # 4: inputs and attempt_inputs may name a whole group, and the journal may have segments; no table changes
    (
        # What a file was when it was recorded, `core.model.OutputFile`: a change in place is noticed without its digest.
        "ALTER TABLE outputs ADD COLUMN stamp TEXT",
        "ALTER TABLE source_files ADD COLUMN stamp TEXT",
        # What a rerun reset, until an attempt follows: JSON [state, reason, soft, cause, tries, run cancelled, at, how many].
        "ALTER TABLE tasks ADD COLUMN before TEXT",
        "CREATE INDEX tasks_rerun ON tasks (position) WHERE before IS NOT NULL",
    ),
    (
        # Campaigns that change: where the files of a version are below the run root (before versions: source/ itself).
        "ALTER TABLE campaign_versions ADD COLUMN source TEXT NOT NULL DEFAULT 'source'",
        "ALTER TABLE campaign_versions ADD COLUMN campaign_sha256 TEXT NOT NULL DEFAULT ''",  # of the files as given
        "ALTER TABLE campaign_versions ADD COLUMN operators_sha256 TEXT NOT NULL DEFAULT ''",
        *(
            f"UPDATE campaign_versions SET {name} = COALESCE((SELECT json_extract(line, '$.{name}') FROM events "
            "WHERE json_extract(line, '$.kind') = 'run_created'), '')"
            for name in ("campaign_sha256", "operators_sha256")
        ),
        "ALTER TABLE campaign_versions ADD COLUMN site TEXT NOT NULL DEFAULT ''",  # path of the file of --operators
        # Digests of what determines a result (`template.work`): of a task as it is now, and of what an attempt was asked to do.
        # "" where that was not recorded.
        "ALTER TABLE tasks ADD COLUMN work TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE attempts ADD COLUMN work TEXT NOT NULL DEFAULT ''",
        # Of a task whose work was changed since: JSON [attempt, {part: digest}], and the names of what changed, as a list.
        "ALTER TABLE tasks ADD COLUMN asked TEXT",
        "ALTER TABLE tasks ADD COLUMN changed TEXT",
        # Limits of the run: which one paused it, whether it goes on all the same, the failures that a resume has forgiven.
        "ALTER TABLE run ADD COLUMN pause_reason TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE run ADD COLUMN over INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE run ADD COLUMN failures_before INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE attempts ADD COLUMN licences TEXT",  # JSON, name -> number
        # Attempts that go on from the files of one before: how many did, whether the next does, and whether one wrote any.
        "ALTER TABLE tasks ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tasks ADD COLUMN carry INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE attempts ADD COLUMN carry INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE attempts ADD COLUMN stalled INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE outputs ADD COLUMN removed INTEGER NOT NULL DEFAULT 0",  # temporary, and no longer needed
        "CREATE INDEX outputs_removed ON outputs (task_id) WHERE removed = 1",
        "CREATE INDEX tasks_changed ON tasks (position) WHERE changed IS NOT NULL",
        """CREATE TABLE version_files (
            version INTEGER NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL, stamp TEXT,
            PRIMARY KEY (version, path)) WITHOUT ROWID""",
        "INSERT INTO version_files SELECT 1, path, sha256, size, stamp FROM source_files",
        "DROP TABLE source_files",
        "ALTER TABLE version_files RENAME TO source_files",
    ),
    (
        # What stands for instances that are not known yet: `group` or `loop`; of one whose are, JSON of what made them
        # (core/events.py, `Expanded`).
        "ALTER TABLE tasks ADD COLUMN plan TEXT",
        "ALTER TABLE tasks ADD COLUMN made TEXT",
        "ALTER TABLE tasks ADD COLUMN given TEXT",  # JSON, of a task in a round of a loop: {carry, repeat}
        "CREATE INDEX tasks_planned ON tasks (state, given IS NULL, group_name) WHERE plan IS NOT NULL",
        "CREATE INDEX tasks_outside ON tasks (position) WHERE given IS NULL",
        "CREATE INDEX tasks_inside ON tasks (position) WHERE given IS NOT NULL",
    ),
)

SCHEMA_VERSION = len(MIGRATIONS)
TABLES = (
    "schema_info", "run", "campaign_versions", "tasks", "task_counts", "edges", "attempts", "attempt_inputs", "outputs",
    "source_files", "events",
)  # fmt: skip
