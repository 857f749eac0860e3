PRAGMA application_id = 1297306699;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE attempt_inputs (
            task_id TEXT NOT NULL, attempt INTEGER NOT NULL, upstream TEXT NOT NULL, upstream_attempt INTEGER NOT NULL,
            PRIMARY KEY (task_id, attempt, upstream)) WITHOUT ROWID;
INSERT INTO "attempt_inputs" VALUES('sum',1,'a/1',1);
INSERT INTO "attempt_inputs" VALUES('sum',1,'a/1.50',1);
CREATE TABLE attempts (
            task_id TEXT NOT NULL REFERENCES tasks, attempt INTEGER NOT NULL, state TEXT NOT NULL,
            operator TEXT NOT NULL, handle TEXT NOT NULL DEFAULT '', wish TEXT, wished_at REAL,
            created_at REAL NOT NULL, started_at REAL, ended_at REAL, exit_code INTEGER, failure TEXT,
            reason TEXT NOT NULL DEFAULT '', counts INTEGER NOT NULL DEFAULT 0, cpus INTEGER NOT NULL DEFAULT 1,
            memory INTEGER, time_s REAL, source_digest TEXT NOT NULL, metrics TEXT, response TEXT,
            PRIMARY KEY (task_id, attempt));
INSERT INTO "attempts" VALUES('a/1',1,'COMPLETED','local','{"machine": "00000000000000000000000000000001", "boot": "04a55ba1-a488-4de6-b3f9-61009fce16bc", "pid_ns": "4026531836", "host": "laptop", "pid": 12006, "start": "1716583"}',NULL,NULL,1.79531723879311895368e+09,1.79531723881638288495e+09,1.79531723882359194759e+09,0,NULL,'',0,1,NULL,NULL,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855','{"e": -1.5}',NULL);
INSERT INTO "attempts" VALUES('a/1.50',1,'COMPLETED','local','{"machine": "00000000000000000000000000000001", "boot": "04a55ba1-a488-4de6-b3f9-61009fce16bc", "pid_ns": "4026531836", "host": "laptop", "pid": 12007, "start": "1716583"}',NULL,NULL,1.79531723879311895368e+09,1.795317238815531969e+09,1.7953172388212890625e+09,0,NULL,'',0,1,NULL,NULL,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855','{"e": -1.5}',NULL);
INSERT INTO "attempts" VALUES('soft',1,'FAILED','local','{"machine": "00000000000000000000000000000001", "boot": "04a55ba1-a488-4de6-b3f9-61009fce16bc", "pid_ns": "4026531836", "host": "laptop", "pid": 12018, "start": "1716586"}',NULL,NULL,1.79531723882546710964e+09,1.79531723883974909787e+09,1.79531723884548592568e+09,3,'exit_code','exit code 3',1,1,NULL,NULL,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',NULL,NULL);
INSERT INTO "attempts" VALUES('broken',1,'FAILED','local','{"machine": "00000000000000000000000000000001", "boot": "04a55ba1-a488-4de6-b3f9-61009fce16bc", "pid_ns": "4026531836", "host": "laptop", "pid": 12025, "start": "1716587"}',NULL,NULL,1.79531723884383893007e+09,1.79531723885251188275e+09,1.79531723885411906242e+09,1,'exit_code','exit code 1',1,1,NULL,NULL,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',NULL,NULL);
INSERT INTO "attempts" VALUES('soft',2,'FAILED','local','{"machine": "00000000000000000000000000000001", "boot": "04a55ba1-a488-4de6-b3f9-61009fce16bc", "pid_ns": "4026531836", "host": "laptop", "pid": 12031, "start": "1716589"}',NULL,NULL,1.79531723885999250408e+09,1.79531723886924910547e+09,1.79531723887121295933e+09,3,'exit_code','exit code 3',1,1,NULL,NULL,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',NULL,NULL);
INSERT INTO "attempts" VALUES('sum',1,'COMPLETED','local','{"machine": "00000000000000000000000000000001", "boot": "04a55ba1-a488-4de6-b3f9-61009fce16bc", "pid_ns": "4026531836", "host": "laptop", "pid": 12033, "start": "1716589"}',NULL,NULL,1.79531723885999250408e+09,1.79531723887139606473e+09,1795317238.88117,0,NULL,'',0,1,NULL,NULL,'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',NULL,NULL);
CREATE TABLE campaign_versions (
            version INTEGER PRIMARY KEY, digest TEXT NOT NULL, created_at TEXT NOT NULL, definition TEXT NOT NULL);
INSERT INTO "campaign_versions" VALUES(1,'2f806bbb0b02a4203402799b49000f6bc932f2290306676e008e3d1486784246','2026-11-22T03:13:58.772348Z','{"name": "fixture", "params": {"n": [1, 1.50]}, "operators": {"local": {"name": "local", "kind": "local"}}, "tasks": {"a": {"name": "a", "command": "echo ${{ matrix.n }} > ${{ outputs.o }}; echo ''{\"e\": -1.5}'' > metrics.json", "shell": "bash", "operator": "local", "retries": {"max": 0, "delay_s": 0.0}, "priority": 0, "outputs": {"o": {"path": "o/${{ matrix.n }}"}}, "matrix": {"n": "${{ params.n }}"}}, "soft": {"name": "soft", "command": "exit 3", "shell": "bash", "operator": "local", "retries": {"max": 1, "delay_s": 0.0}, "priority": 0, "allow_failure": true}, "below": {"name": "below", "command": "true", "shell": "bash", "operator": "local", "retries": {"max": 0, "delay_s": 0.0}, "priority": 0, "needs": ["soft"]}, "broken": {"name": "broken", "command": "exit 1", "shell": "bash", "operator": "local", "retries": {"max": 0, "delay_s": 0.0}, "priority": 0}, "blocked": {"name": "blocked", "command": "true", "shell": "bash", "operator": "local", "retries": {"max": 0, "delay_s": 0.0}, "priority": 0, "needs": ["broken"]}, "sum": {"name": "sum", "command": "cat ${{ inputs.x }} > ${{ outputs.o }}", "shell": "bash", "operator": "local", "retries": {"max": 0, "delay_s": 0.0}, "priority": 0, "inputs": {"x": {"pattern": "o/*"}}, "outputs": {"o": {"path": "sum"}}}}, "git_max_size": 10485760}');
CREATE TABLE edges (
            upstream TEXT NOT NULL, downstream TEXT NOT NULL REFERENCES tasks, entry TEXT NOT NULL,
            PRIMARY KEY (downstream, upstream, entry)) WITHOUT ROWID;
INSERT INTO "edges" VALUES('a/1','sum','inputs.x');
INSERT INTO "edges" VALUES('a/1.50','sum','inputs.x');
INSERT INTO "edges" VALUES('broken','blocked','needs[0]');
INSERT INTO "edges" VALUES('soft','below','needs[0]');
CREATE TABLE events (
            seq INTEGER PRIMARY KEY, at TEXT NOT NULL, epoch INTEGER NOT NULL, kind TEXT NOT NULL,
            data TEXT NOT NULL);
INSERT INTO "events" VALUES(1,'2026-11-22T03:13:58.772348Z',1,'run_created','{"run": "fixture-0abcda0e", "name": "fixture", "digest": "2f806bbb0b02a4203402799b49000f6bc932f2290306676e008e3d1486784246", "version": "0.1.0", "tasks": 7, "source_digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "campaign_path": "../../campaign.yaml"}');
INSERT INTO "events" VALUES(2,'2026-11-22T03:13:58.793119Z',2,'attempt','{"task": "a/1", "attempt": 1, "state": "SUBMITTING", "task_state": "SUBMITTED", "operator": "local", "source_digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\"}", "cpus": 1}');
INSERT INTO "events" VALUES(3,'2026-11-22T03:13:58.793119Z',2,'attempt','{"task": "a/1.50", "attempt": 1, "state": "SUBMITTING", "task_state": "SUBMITTED", "operator": "local", "source_digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\"}", "cpus": 1}');
INSERT INTO "events" VALUES(4,'2026-11-22T03:13:58.793119Z',2,'attempt','{"task": "a/1", "attempt": 1, "state": "RUNNING", "task_state": "RUNNING", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\", \"pid\": 12006, \"start\": \"1716583\"}", "started_at": "2026-11-22T03:13:58.814821Z"}');
INSERT INTO "events" VALUES(5,'2026-11-22T03:13:58.793119Z',2,'attempt','{"task": "a/1.50", "attempt": 1, "state": "RUNNING", "task_state": "RUNNING", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\", \"pid\": 12007, \"start\": \"1716583\"}", "started_at": "2026-11-22T03:13:58.814837Z"}');
INSERT INTO "events" VALUES(6,'2026-11-22T03:13:58.825467Z',3,'attempt','{"task": "a/1.50", "attempt": 1, "state": "COMPLETED", "task_state": "COMPLETED", "exit_code": 0, "started_at": "2026-11-22T03:13:58.815532Z", "ended_at": "2026-11-22T03:13:58.821289Z", "outputs": {"o/1.50": "44b5ba8ee4b29ee6f52588d6d53a9229f7c92ae275d89dd354b95d14d2b77fbe"}, "metrics": {"e": -1.5}}');
INSERT INTO "events" VALUES(7,'2026-11-22T03:13:58.825467Z',3,'attempt','{"task": "soft", "attempt": 1, "state": "SUBMITTING", "task_state": "SUBMITTED", "operator": "local", "source_digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\"}", "cpus": 1}');
INSERT INTO "events" VALUES(8,'2026-11-22T03:13:58.825467Z',3,'attempt','{"task": "soft", "attempt": 1, "state": "RUNNING", "task_state": "RUNNING", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\", \"pid\": 12018, \"start\": \"1716586\"}", "started_at": "2026-11-22T03:13:58.838347Z"}');
INSERT INTO "events" VALUES(9,'2026-11-22T03:13:58.843839Z',4,'attempt','{"task": "a/1", "attempt": 1, "state": "COMPLETED", "task_state": "COMPLETED", "exit_code": 0, "started_at": "2026-11-22T03:13:58.816383Z", "ended_at": "2026-11-22T03:13:58.823592Z", "outputs": {"o/1": "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"}, "metrics": {"e": -1.5}}');
INSERT INTO "events" VALUES(10,'2026-11-22T03:13:58.843839Z',4,'task','{"task": "sum", "state": "READY"}');
INSERT INTO "events" VALUES(11,'2026-11-22T03:13:58.843839Z',4,'attempt','{"task": "broken", "attempt": 1, "state": "SUBMITTING", "task_state": "SUBMITTED", "operator": "local", "source_digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\"}", "cpus": 1}');
INSERT INTO "events" VALUES(12,'2026-11-22T03:13:58.843839Z',4,'attempt','{"task": "broken", "attempt": 1, "state": "RUNNING", "task_state": "RUNNING", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\", \"pid\": 12025, \"start\": \"1716587\"}", "started_at": "2026-11-22T03:13:58.850640Z"}');
INSERT INTO "events" VALUES(13,'2026-11-22T03:13:58.859993Z',5,'attempt','{"task": "soft", "attempt": 1, "state": "FAILED", "task_state": "PENDING", "failure": "exit_code", "reason": "exit code 3", "task_reason": "retry 1 of 1 after exit code 3", "counts": true, "exit_code": 3, "started_at": "2026-11-22T03:13:58.839749Z", "ended_at": "2026-11-22T03:13:58.845486Z"}');
INSERT INTO "events" VALUES(14,'2026-11-22T03:13:58.859993Z',5,'attempt','{"task": "broken", "attempt": 1, "state": "FAILED", "task_state": "FAILED", "failure": "exit_code", "reason": "exit code 1", "task_reason": "attempt 1 of 1: exit code 1", "counts": true, "exit_code": 1, "started_at": "2026-11-22T03:13:58.852512Z", "ended_at": "2026-11-22T03:13:58.854119Z"}');
INSERT INTO "events" VALUES(15,'2026-11-22T03:13:58.859993Z',5,'task','{"task": "soft", "state": "READY"}');
INSERT INTO "events" VALUES(16,'2026-11-22T03:13:58.859993Z',5,'task','{"task": "blocked", "state": "BLOCKED", "reason": "broken failed", "cause": "broken"}');
INSERT INTO "events" VALUES(17,'2026-11-22T03:13:58.859993Z',5,'attempt','{"task": "soft", "attempt": 2, "state": "SUBMITTING", "task_state": "SUBMITTED", "operator": "local", "source_digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\"}", "cpus": 1}');
INSERT INTO "events" VALUES(18,'2026-11-22T03:13:58.859993Z',5,'attempt','{"task": "sum", "attempt": 1, "state": "SUBMITTING", "task_state": "SUBMITTED", "operator": "local", "source_digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\"}", "cpus": 1}');
INSERT INTO "events" VALUES(19,'2026-11-22T03:13:58.859993Z',5,'attempt','{"task": "soft", "attempt": 2, "state": "RUNNING", "task_state": "RUNNING", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\", \"pid\": 12031, \"start\": \"1716589\"}", "started_at": "2026-11-22T03:13:58.871640Z"}');
INSERT INTO "events" VALUES(20,'2026-11-22T03:13:58.859993Z',5,'attempt','{"task": "sum", "attempt": 1, "state": "RUNNING", "task_state": "RUNNING", "handle": "{\"machine\": \"00000000000000000000000000000001\", \"boot\": \"04a55ba1-a488-4de6-b3f9-61009fce16bc\", \"pid_ns\": \"4026531836\", \"host\": \"laptop\", \"pid\": 12033, \"start\": \"1716589\"}", "started_at": "2026-11-22T03:13:58.871656Z"}');
INSERT INTO "events" VALUES(21,'2026-11-22T03:13:58.875736Z',6,'attempt','{"task": "soft", "attempt": 2, "state": "FAILED", "task_state": "FAILED", "failure": "exit_code", "reason": "exit code 3", "task_reason": "attempt 2 of 2: exit code 3", "counts": true, "soft": true, "exit_code": 3, "started_at": "2026-11-22T03:13:58.869249Z", "ended_at": "2026-11-22T03:13:58.871213Z"}');
INSERT INTO "events" VALUES(22,'2026-11-22T03:13:58.875736Z',6,'task','{"task": "below", "state": "SKIPPED", "reason": "soft failed, which is allowed", "cause": "soft"}');
INSERT INTO "events" VALUES(23,'2026-11-22T03:13:58.901151Z',7,'attempt','{"task": "sum", "attempt": 1, "state": "COMPLETED", "task_state": "COMPLETED", "exit_code": 0, "started_at": "2026-11-22T03:13:58.871396Z", "ended_at": "2026-11-22T03:13:58.881170Z", "outputs": {"sum": "3ca7e9a32dc8eb22e4ab620dbca6d1ef778b4a61d1266f1f977a9723da6cf838"}}');
CREATE TABLE outputs (
            task_id TEXT NOT NULL, attempt INTEGER NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL,
            file TEXT NOT NULL, size INTEGER, sha256 TEXT, PRIMARY KEY (task_id, attempt, name)) WITHOUT ROWID;
INSERT INTO "outputs" VALUES('a/1',1,'o','o/1','o/1',2,'4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865');
INSERT INTO "outputs" VALUES('a/1.50',1,'o','o/1.50','o/1.50',5,'44b5ba8ee4b29ee6f52588d6d53a9229f7c92ae275d89dd354b95d14d2b77fbe');
INSERT INTO "outputs" VALUES('sum',1,'o','sum','sum',7,'3ca7e9a32dc8eb22e4ab620dbca6d1ef778b4a61d1266f1f977a9723da6cf838');
CREATE TABLE run (
            run_id TEXT PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, created_at TEXT NOT NULL,
            epoch INTEGER NOT NULL, paused INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0,
            campaign_version INTEGER NOT NULL, campaign_path TEXT NOT NULL, source_digest TEXT NOT NULL,
            home_inode INTEGER NOT NULL, home_host TEXT NOT NULL, home_path TEXT NOT NULL);
INSERT INTO "run" VALUES('fixture-0abcda0e','fixture','2f806bbb0b02a4203402799b49000f6bc932f2290306676e008e3d1486784246','2026-11-22T03:13:58.772348Z',7,0,0,1,'../../campaign.yaml','e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',2258026,'laptop','/home/ada/runs/fixture');
CREATE TABLE schema_info (version INTEGER NOT NULL, written_by TEXT NOT NULL);
INSERT INTO "schema_info" VALUES(1,'0.1.0');
CREATE TABLE source_files (path TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tasks (
            task_id TEXT PRIMARY KEY, position INTEGER NOT NULL, group_name TEXT NOT NULL, label TEXT NOT NULL,
            campaign_version INTEGER NOT NULL REFERENCES campaign_versions, matrix TEXT NOT NULL,
            operator TEXT NOT NULL, priority INTEGER NOT NULL, inputs TEXT NOT NULL, outputs TEXT NOT NULL,
            state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', soft INTEGER NOT NULL DEFAULT 0,
            cause TEXT, watch TEXT, retry_at REAL, paused INTEGER NOT NULL DEFAULT 0,
            tries INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, result INTEGER);
INSERT INTO "tasks" VALUES('a/1',0,'a','1',1,'{"n": 1}','local',0,'{}','{"o": {"path": "o/1", "file": "o/1"}}','COMPLETED','',0,NULL,NULL,NULL,0,0,1,1);
INSERT INTO "tasks" VALUES('a/1.50',1,'a','1.50',1,'{"n": 1.50}','local',0,'{}','{"o": {"path": "o/1.50", "file": "o/1.50"}}','COMPLETED','',0,NULL,NULL,NULL,0,0,1,1);
INSERT INTO "tasks" VALUES('soft',2,'soft','soft',1,'{}','local',0,'{}','{}','FAILED','attempt 2 of 2: exit code 3',1,NULL,NULL,NULL,0,2,2,NULL);
INSERT INTO "tasks" VALUES('below',3,'below','below',1,'{}','local',0,'{}','{}','SKIPPED','soft failed, which is allowed',0,'soft',NULL,NULL,0,0,0,NULL);
INSERT INTO "tasks" VALUES('broken',4,'broken','broken',1,'{}','local',0,'{}','{}','FAILED','attempt 1 of 1: exit code 1',0,NULL,NULL,NULL,0,1,1,NULL);
INSERT INTO "tasks" VALUES('blocked',5,'blocked','blocked',1,'{}','local',0,'{}','{}','BLOCKED','broken failed',0,'broken',NULL,NULL,0,0,0,NULL);
INSERT INTO "tasks" VALUES('sum',6,'sum','sum',1,'{}','local',0,'{"x": [true, null, [["a/1", "o", ""], ["a/1.50", "o", ""]]]}','{"o": {"path": "sum", "file": "sum"}}','COMPLETED','',0,NULL,NULL,NULL,0,0,1,1);
CREATE INDEX tasks_by_state ON tasks (state);
CREATE INDEX tasks_by_group ON tasks (group_name, state);
CREATE INDEX tasks_ready ON tasks (operator, priority DESC, position) WHERE state = 'READY';
CREATE INDEX tasks_watching ON tasks (watch) WHERE watch IS NOT NULL;
CREATE INDEX tasks_retrying ON tasks (retry_at) WHERE retry_at IS NOT NULL;
CREATE INDEX tasks_unresolved ON tasks (position)
            WHERE state = 'PENDING' AND watch IS NULL AND retry_at IS NULL;
CREATE INDEX edges_by_upstream ON edges (upstream);
CREATE INDEX attempts_live ON attempts (operator)
            WHERE state IN ('SUBMITTING', 'SUBMITTED', 'RUNNING', 'WAITING');
CREATE INDEX attempt_inputs_by_upstream ON attempt_inputs (upstream);
COMMIT;
