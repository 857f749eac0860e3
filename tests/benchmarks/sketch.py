"""The least that a durable runner does, as a lower bound: python sketch.py TASKS SLOTS FOLDER.

A rollback-journal database, a text journal and a folder for each task as MatterStack has them, intents 16 ahead, one shell for
each task; no decisions, no templates, no recovery.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys

count, slots, root = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.makedirs(f"{root}/tasks")
os.makedirs(f"{root}/results")
os.chdir(root)
db = sqlite3.connect("state.sqlite", isolation_level=None)
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, state TEXT, code INTEGER, sha256 TEXT)")
db.execute("BEGIN")
db.executemany("INSERT INTO tasks VALUES (?, 'READY', NULL, NULL)", ((i,) for i in range(count)))
db.execute("COMMIT")
journal = os.open("journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
waiting, running, ended, following = [], {}, [], 0


def commit() -> None:
    global following
    new = list(range(following, min(count, following + 16 - len(waiting))))
    db.execute("BEGIN IMMEDIATE")
    db.executemany("UPDATE tasks SET state = 'COMPLETED', code = ?, sha256 = ? WHERE id = ?", ended)
    db.executemany("UPDATE tasks SET state = 'SUBMITTING' WHERE id = ?", ((i,) for i in new))
    db.execute("COMMIT")
    os.write(journal, "".join(json.dumps(item) + "\n" for item in [*ended, *new]).encode())
    os.fsync(journal)
    ended.clear()
    waiting.extend(new)
    following += len(new)


def start(i: int) -> None:
    folder = f"tasks/{i}"
    os.mkdir(folder)
    for name, text in (("command.sh", f"echo {i} > file\n"), ("task.json", json.dumps({"task": i})), ("claim", "x")):
        with open(f"{folder}/{name}", "w") as file:
            file.write(text)
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"cd {folder} && exec sh command.sh"], os.environ, setsid=True)
    running[pid] = i


while following < count or waiting or running or ended:
    if not waiting:
        commit()
    while waiting and len(running) < slots:
        start(waiting.pop(0))
    if running:
        pid, status = os.wait()
        i = running.pop(pid)
        with open(f"tasks/{i}/exit.json", "w") as out, open(f"tasks/{i}/file", "rb") as file:
            out.write(json.dumps({"exit_code": status}))
            ended.append((status, hashlib.sha256(file.read()).hexdigest(), i))
        os.symlink(f"../tasks/{i}/file", f"results/{i}")
    elif ended:
        commit()
