"""Restores of parts, killed or canceled at every named step: named paths, and databases alone.

The promise is that of whole trees: after recovery everything that was to be exchanged is as it was or as the backup
has it, a database with its own side files beside it and never with another's, and nothing is left in an area.
"""

import contextlib
import os
import sqlite3
import subprocess
import uuid

import pytest

import holdpoint
import trees
import workerclient

OWNER = 34
PATHS = ["config/app.ini", "uploads", "db/one.db"]
STAGING = ["staging-intent", "staging@2", "staged@4", "checking"]
# One unit for each path that is no database, four for one that is.
PATHS_SWAP = ["intent", "moved@1", "carried", "exchanged@1", "exchanged@2", "exchanged@5", "exchanged@6", "settled"]
DATABASES_SWAP = ["intent", "exchanged@1", "exchanged@3", "exchanged@4", "exchanged@5", "tree-exchanged@3",
                  "exchanged@8", "settled"]
DONE = {"paths": ("exchanged@6", "swapped", "settled"), "databases": ("exchanged@8", "swapped", "settled")}


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def fill_database(path, rows):
    """In a process that is killed: what it committed last stands in the log alone."""
    script = ("import os, sqlite3, sys\n"
              "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
              "db.execute('PRAGMA journal_mode=wal')\n"
              "db.execute('PRAGMA wal_autocheckpoint=0')\n"
              "db.execute('CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x TEXT)')\n"
              "db.executemany('INSERT INTO t (x) VALUES (?)', [('y' * 100,)] * int(sys.argv[2]))\n"
              "os.kill(os.getpid(), 9)\n")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    subprocess.run(["python3", "-c", script, path, str(rows)], check=False)
    for side in ("", "-wal", "-shm"):
        os.chown(path + side, OWNER, OWNER)
    os.chown(os.path.dirname(path), OWNER, OWNER)


class Parts:
    def __init__(self, fs, machine):
        self.fs, self.machine, self.round = fs, machine, 0
        self.data = fs.directory("srv", "data")
        self.databases = [os.path.join(self.data, "db", n) for n in ("one.db", "two.db")]
        self.fill("good")
        machine.write_service("site", self.data, Exclude="uploads/cache/**", Snapshot="auto" if fs.kind == "btrfs" else "none")
        machine.start()
        self.backups = {"paths": machine.json("create", "site")["backup_id"],
                        "databases": machine.json("create", "site", "--no-include-files")["backup_id"]}

    def fill(self, what):
        for i in range(5):
            write(os.path.join(self.data, "uploads", "f%d" % i), what * (i + 1))
        write(os.path.join(self.data, "uploads", "cache", "c"), what)
        write(os.path.join(self.data, "config", "app.ini"), what)
        for path in self.databases:
            fill_database(path, 20 + self.round)

    def damage(self):
        self.round += 1
        self.fill("damaged %d " % self.round)
        self.old = self.state()

    def state(self):
        found = {}
        for path, d in trees.describe(self.data, ignore=("links",)).items():
            if not path.startswith(b".holdpoint"):
                found[path] = {k: v for k, v in d.items() if k != "mtime" or d["type"] != "d"}
        return found

    def parameters(self, method):
        return {"backup_id": self.backups[method], "restore_type": "site",
                **({"paths": PATHS} if method == "paths" else {})}

    def start(self, method, source="auto"):
        return workerclient.Job(self.machine, "restore", restore_id=str(uuid.uuid4()), **{"from": source},
                                **self.parameters(method))

    def restore(self, method):
        answer = self.start(method).answer()
        assert answer.result == "done", answer
        return answer.summary["restore_id"]

    def is_old(self):
        return self.state() == self.old

    def check_new(self, method):
        touched = self.databases if method == "databases" else self.databases[:1]
        for path in touched:
            assert not [s for s in ("-wal", "-shm", "-journal") if os.path.exists(path + s)]
            with contextlib.closing(sqlite3.connect("file:%s?immutable=1" % path, uri=True)) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert db.execute("SELECT count(*) FROM t").fetchone() == (20,)
        if method == "paths":
            with open(os.path.join(self.data, "uploads", "f1")) as f:
                assert f.read() == "goodgood"
            with open(os.path.join(self.data, "config", "app.ini")) as f:
                assert f.read() == "good"
            with open(os.path.join(self.data, "uploads", "cache", "c")) as f:
                assert f.read() == "damaged %d " % self.round

    def left(self):
        """What lies in the areas and is no hot copy, and the subvolumes there are."""
        found = []
        for top in (self.fs.path, self.data):
            with contextlib.suppress(FileNotFoundError):
                found += [n for n in os.listdir(os.path.join(top, ".holdpoint")) if not n.startswith("hot.")]
        if self.fs.kind == "btrfs":
            out = holdpoint.run("btrfs", "subvolume", "list", self.fs.path)
            found += [line for line in out.splitlines() if "hot." not in line and not line.endswith("srv/data")]
        return found

    def recover(self, **extra):
        done = self.machine.worker_recover(**extra)
        if not extra:
            assert done.returncode == 0, done.stderr

    def killed(self, step, run):
        self.machine.workers.restart("restore", HOLDPOINT_STEP=step + "=kill")
        answer = run()
        assert answer.lost, "the worker did not die at %s: %r" % (step, answer)
        self.machine.workers.restart("restore")

    def ask(self, verb, restore_id):
        return workerclient.ask(self.machine, verb, restore_id=restore_id)

    def end(self):
        """Confirms the newest restore if it is open."""
        for row in reversed(workerclient.ask(self.machine, "reconcile", worker="maintain").of("restore")):
            if row["restore"]["state"] in ("active", "rolled_back"):
                answer = self.ask("confirm", row["restore"]["restore_id"])
                assert answer.result == "done", answer
        assert self.left() == []


@pytest.fixture(scope="module", params=["btrfs"])
def parts(request, install):
    with holdpoint.LoopFs(request.param, 1024) as fs, holdpoint.Machine(install) as machine:
        yield Parts(fs, machine)


@pytest.fixture(autouse=True)
def round_begins(parts):
    parts.damage()
    yield
    parts.machine.workers.restart("restore")
    parts.end()


@pytest.mark.parametrize("method,step", [(m, s) for m, steps in (("paths", PATHS_SWAP), ("databases", DATABASES_SWAP))
                                         for s in STAGING + steps])
def test_restore_killed(parts, method, step):
    source = "local" if step in STAGING else "auto"
    parts.killed(step, lambda: parts.start(method, source).answer())
    parts.recover()
    if step in DONE[method]:
        parts.check_new(method)
    else:
        assert parts.is_old()
        assert parts.left() == []
        parts.restore(method)
        parts.check_new(method)


@pytest.mark.parametrize("step", ["exchanged@1", "exchanged@4", "exchanged@8"])
def test_rollback_killed(parts, step):
    """With a log of its own beside the restored database: two logs change places."""
    restore_id = parts.restore("databases")
    for path in parts.databases:
        fill_database(path, 5)
    new = parts.state()
    parts.killed(step, lambda: parts.ask("rollback", restore_id))
    parts.recover()
    assert parts.state() == (parts.old if step in ("exchanged@8", "settled") else new)
    again = parts.ask("rollback", restore_id)
    assert again.result == "done", again
    assert parts.state() == (new if step in ("exchanged@8", "settled") else parts.old)


@pytest.mark.parametrize("step", ["undone@1", "undone@4", "removed@5"])
def test_recovery_killed(parts, step):
    parts.killed("exchanged@4", lambda: parts.start("databases").answer())
    for _ in range(2):
        parts.recover(HOLDPOINT_STEP=step + "=kill")
    parts.recover()
    assert parts.is_old()
    assert parts.left() == []


@pytest.mark.parametrize("step", ["confirming", "removed@4"])
def test_confirm_killed(parts, step):
    restore_id = parts.restore("databases")
    parts.killed(step, lambda: parts.ask("confirm", restore_id))
    parts.recover()
    parts.check_new("databases")
    assert parts.left() == []


@pytest.mark.parametrize("step", STAGING + ["intent"])
@pytest.mark.parametrize("method", ["paths", "databases"])
def test_canceled(parts, method, step):
    """Until the intent nothing is left of it; after that it is no longer stopped."""
    parts.machine.workers.restart("restore", HOLDPOINT_STEP=step + "=stop")
    job = parts.start(method, "local")
    pid = job.stopped()
    job.cancel()
    job.go_on(pid)
    answer = job.answer()
    if step == "intent":
        assert answer.result == "done", answer
        parts.check_new(method)
        return
    assert (answer.result, answer.name) == ("canceled", "Canceled"), answer
    assert parts.is_old()
    assert parts.left() == []
