"""One query tells a job's whole story, explained, and nothing in it that nobody should read."""

import json
import os
import re

SCRIPT = """
        say() { printf '%s\\n' "$*" >>/host/facts; }
        data btrfs
        application /srv/app 100
        sqlite3 /srv/app/app.db "insert into t values (1000, 'SECRET-ROW-OF-A-TABLE')"
        echo SECRET-CONTENT-OF-A-FILE >/srv/app/files/secret
        service app /srv/app
        printf 'BACKUP_ENCRYPTION_KEY="SECRET-PASSPHRASE-9f2"\\n' >/etc/default/holdpoint
        chmod 600 /etc/default/holdpoint
        job_of() { holdpoint jobs --json | jq -r --arg t "$1" '[.jobs[] | select(.type == $t)][0] | "\\(.id) \\(.task_id) \\(.backup_id)"'; }

        # denied, before the agent has anything to do
        status 4 runuser -u games -- holdpoint create app --json
        holdpoint create app --json >/host/backup
        read -r job task backup <<<"$(job_of backup)"
        say "backup $job $task $backup"
        journalctl --sync
        journalctl -o json "HOLDPOINT_JOB=$job" >/host/backup.json
        journalctl -o json "HOLDPOINT_TASK=$task" >/host/backup-task.json
        journalctl --no-pager -x "HOLDPOINT_JOB=$job" >/host/backup.explained

        holdpoint restore latest --service app --from local --yes
        holdpoint rollback latest --yes
        holdpoint confirm latest --yes
        read -r job task backup <<<"$(job_of restore)"
        say "restore $job $task $backup"
        journalctl --sync
        journalctl -o json "HOLDPOINT_JOB=$job" >/host/restore.json
        journalctl --no-pager -x "HOLDPOINT_JOB=$job" >/host/restore.explained

        # a damaged database, with a name that would drive a terminal; and a service that is not there
        application /srv/odd 500
        odd=$'/srv/odd/x\\e[2J\\nHOLDPOINT_JOB=1.db'
        mv /srv/odd/app.db "$odd"
        rm -f /srv/odd/app.db-*
        dd if=/dev/urandom of="$odd" bs=4096 seek=3 count=4 conv=notrunc status=none
        chown -R games:games /srv/odd
        service odd /srv/odd Databases=auto
        service gone /srv/gone
        systemctl reload holdpointd
        status 3 holdpoint create odd
        status 1 holdpoint create gone
        read -r job task backup <<<"$(job_of backup)"
        say "gone $job $task $backup"
        holdpoint key export-recovery >/tmp/recovery.pem
        holdpoint key prove /tmp/recovery.pem
        echo 'Nonsense=1' >>/etc/holdpoint/services.d/gone.conf
        systemctl reload holdpointd && fail "a bad configuration was taken" || true
        rm /etc/holdpoint/services.d/gone.conf
        journalctl --sync
        journalctl -o json "HOLDPOINT_JOB=$job" >/host/gone.json
        journalctl --no-pager -x "HOLDPOINT_JOB=$job" >/host/gone.explained
        journalctl -o json -b >/host/all.json
        journalctl -o export -b >/host/all.export
        # what must not be found: the key's lines, the host's secret, and what is in SCRIPT
        grep -v -- ----- /tmp/recovery.pem >/host/key-lines
        od -An -v -tx1 /etc/holdpoint/keys/host.secret | tr -d ' \\n' >/host/secret-hex
        start=$(date +%s%N); journalctl --update-catalog; end=$(date +%s%N)
        say "update-catalog $(( (end - start) / 1000000 )) ms 0"
"""


def entries(share, name):
    with open(os.path.join(share, name), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def text(share, name):
    with open(os.path.join(share, name), encoding="utf-8", errors="replace") as f:
        return f.read()


def with_id(lines, identifier):
    return [line for line in lines if line.get("MESSAGE_ID") == identifier]


def list_of_ids():
    path = os.path.join(os.path.dirname(__file__), "../../base/messages.h")
    with open(path, encoding="utf-8") as f:
        return dict(re.findall(r"X\((MESSAGE_\w+), \"(\w+)\"", re.sub(r"\s*\\\n\s*", " ", f.read())))


IDS = list_of_ids()


def one(lines, name):
    found = with_id(lines, IDS[name])
    assert len(found) == 1, (name, found)
    return found[0]


def check_backup(share, facts):
    job, task, backup = facts["backup"]
    lines = entries(share, "backup.json")
    assert {"holdpointd", "holdpoint-worker", "holdpoint-sqlite"} <= {line["SYSLOG_IDENTIFIER"] for line in lines}
    for line in lines:
        assert (line["HOLDPOINT_TASK"], line["HOLDPOINT_BACKUP"]) == (task, backup), line
        assert line["HOLDPOINT_SERVICE"] == "app", line
    assert [line["__CURSOR"] for line in entries(share, "backup-task.json")] == [line["__CURSOR"] for line in lines]
    names = [name for line in lines for name, i in IDS.items() if i == line.get("MESSAGE_ID")]
    assert names == ["MESSAGE_JOB_QUEUED", "MESSAGE_JOB_STARTED", "MESSAGE_POINT_TAKEN", "MESSAGE_BACKUP_COMPLETED",
                     "MESSAGE_JOB_DONE"]
    assert one(lines, "MESSAGE_JOB_QUEUED")["HOLDPOINT_CALLER_UID"] == "0"
    shown = json.loads(text(share, "backup"))
    done = one(lines, "MESSAGE_BACKUP_COMPLETED")
    assert int(done["HOLDPOINT_BYTES"]) == shown["bytes"] > 0
    assert int(done["HOLDPOINT_PAUSE_USEC"]) == shown["pause_usec"] > 0
    assert done["HOLDPOINT_PAUSE_USEC"] == one(lines, "MESSAGE_POINT_TAKEN")["HOLDPOINT_PAUSE_USEC"]
    assert one(lines, "MESSAGE_JOB_DONE")["HOLDPOINT_RESULT"] == "done"
    helper = [line for line in lines if line["SYSLOG_IDENTIFIER"] == "holdpoint-sqlite"]
    games = helper[0]["_UID"]
    assert games != "0" and {line["HOLDPOINT_PHASE"] for line in helper} == {"hold", "recover"}, helper
    assert any(re.search(r"1 of 1 databases of uid %s were held for \d+ us" % games, line["MESSAGE"]) for line in helper)
    worker = [line for line in lines if line["SYSLOG_IDENTIFIER"] == "holdpoint-worker"]
    # journald does not find the unit of a program that has ended meanwhile; its user it always knows.
    units = {line["_SYSTEMD_UNIT"].split("@")[0] for line in worker + helper if "_SYSTEMD_UNIT" in line}
    assert units == {"holdpoint-backup"} and {line["_UID"] for line in worker} == {"0"}
    explained = text(share, "backup.explained")
    assert "Subject: Job %s was queued" % job in explained and "Subject: Backup %s is complete" % backup in explained
    assert "journalctl HOLDPOINT_TASK=%s" % task in explained


def check_restore(share, facts, everything):
    _, task, backup = facts["restore"]
    lines = entries(share, "restore.json")
    assert {"holdpointd", "holdpoint-worker", "holdpoint-sqlite"} <= {line["SYSLOG_IDENTIFIER"] for line in lines}
    active = one(lines, "MESSAGE_RESTORE_ACTIVE")
    assert active["HOLDPOINT_SERVICE"] == "app" and active["HOLDPOINT_RESULT"] == "active"
    assert {line["HOLDPOINT_TASK"] for line in lines} == {task} and {line["HOLDPOINT_BACKUP"] for line in lines} == {backup}
    assert {line["HOLDPOINT_RESTORE"] for line in lines} == {active["HOLDPOINT_RESTORE"]}
    assert int(one(lines, "MESSAGE_JOB_DONE")["HOLDPOINT_BYTES"]) > 0
    assert "holdpoint rollback %s" % active["HOLDPOINT_RESTORE"] in text(share, "restore.explained")
    for name in ("MESSAGE_RESTORE_ROLLED_BACK", "MESSAGE_RESTORE_CONFIRMED"):
        assert one(everything, name)["HOLDPOINT_RESTORE"] == active["HOLDPOINT_RESTORE"]


def check_failures(share, facts, everything):
    lines = entries(share, "gone.json")
    assert facts["gone"][0] == lines[0]["HOLDPOINT_JOB"]
    failed = one(lines, "MESSAGE_JOB_FAILED")
    assert failed["HOLDPOINT_RESULT"] == "failed" and failed["HOLDPOINT_ERROR"] == "SourceMissing"
    assert one(lines, "MESSAGE_ERROR_SOURCE_MISSING")["SYSLOG_IDENTIFIER"] == "holdpoint-worker"
    assert "Is its file system mounted?" in text(share, "gone.explained")
    [odd] = [line for line in with_id(everything, IDS["MESSAGE_DATABASE_NOT_GOOD"])]
    assert r"x\x1b[2J\x0aHOLDPOINT_JOB=1.db" in odd["MESSAGE"] and odd["HOLDPOINT_SERVICE"] == "odd", odd
    assert one(everything, "MESSAGE_JOB_PARTIAL")["PRIORITY"] == "3"
    refused = one(everything, "MESSAGE_CONFIGURATION_REFUSED")
    assert "gone.conf:" in refused["MESSAGE"] and refused["HOLDPOINT_ERROR"] == "ConfigurationInvalid"


def check_callers(everything, games):
    denied = with_id(everything, IDS["MESSAGE_CALL_DENIED"])
    first = denied[0]
    assert first["HOLDPOINT_CALLER_UID"] == games and first["HOLDPOINT_METHOD"] == "CreateBackup"
    assert first["HOLDPOINT_ACTION"] == "org.holdpoint.backup1.create" and first["HOLDPOINT_SERVICE"] == "app"
    assert {line["HOLDPOINT_CALLER_UID"] for line in denied} == {games}
    granted = [(line["HOLDPOINT_METHOD"], line["HOLDPOINT_CALLER_UID"])
               for line in with_id(everything, IDS["MESSAGE_CALL_GRANTED"])]
    for method in ("CreateBackup", "RestoreBackup", "RollbackRestore", "ConfirmRestore", "ExportRecoveryKey",
                   "ProveRecoveryKey", "Reload"):
        assert (method, "0") in granted, method


def check_secrets(share):
    exported = text(share, "all.export")
    assert "HOLDPOINT_TASK=" in exported
    for secret in ("SECRET-ROW", "SECRET-CONTENT", "SECRET-PASSPHRASE", "BEGIN PRIVATE", text(share, "secret-hex"),
                   *text(share, "key-lines").split()):
        assert len(secret) > 8 and secret not in exported, secret


def test_story(guest):
    result = guest(SCRIPT, seconds=280)
    share = os.path.join(result.directory, "share")
    facts = {line.split()[0]: line.split()[1:] for line in text(share, "facts").splitlines()}
    everything = entries(share, "all.json")
    check_backup(share, facts)
    check_restore(share, facts, everything)
    check_failures(share, facts, everything)
    check_callers(everything, with_id(everything, IDS["MESSAGE_CALL_DENIED"])[0]["HOLDPOINT_CALLER_UID"])
    for name in ("MESSAGE_RECOVERY_KEY_UNPROVEN", "MESSAGE_KEY_EXPORTED", "MESSAGE_KEY_PROVEN"):
        one(everything, name)
    check_secrets(share)
    print("journalctl --update-catalog: %s ms" % facts["update-catalog"][0])
