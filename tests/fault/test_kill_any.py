"""One of the three programs killed in the middle of any job, the others real: the agent, the worker, the helper.

The promise: nobody hangs, what is listed is whole, what is not whole is not listed, the service goes on, and the next
run has nothing to do with what was left. HOLDPOINT_TEST_STEPS=N and HOLDPOINT_TEST_SEED=N ask for more.
"""

import contextlib
import os
import random
import signal
import sqlite3
import tempfile
import time

import pytest

import holdpoint
import sites
from busclient import Client, variant

SEED = int(os.environ.get("HOLDPOINT_TEST_SEED", "1"))
STEPS = int(os.environ.get("HOLDPOINT_TEST_STEPS", "12"))
OWNER = 33  # of one of the databases: another helper


class Site(sites.Site):
    def fill(self):
        self.top = self.fs.subvolume("app")
        os.chmod(self.top, 0o755)
        for name, uid, mode in (("root.db", 0, "wal"), ("owned/owned.db", OWNER, "delete")):
            path = os.path.join(self.top, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            sites.sql(path, "pragma journal_mode=%s; create table t(n integer primary key, x); insert into t values (0, randomblob(200000))" % mode)
            for owned in {path, os.path.dirname(path)} - {self.top}:
                os.chown(owned, uid, uid)
        for n in range(2000):
            with open(os.path.join(self.top, "a file with a name of some length %04d" % n), "w") as f:
                f.write("%d\n" % n)
        with open(os.path.join(self.top, "large"), "wb") as f:
            f.write(random.Random(SEED).randbytes(12 << 20))
        # This one stays open: its log is never gone, as with a service that runs.
        self.open = sqlite3.connect(os.path.join(self.top, "root.db"), isolation_level=None)
        self.open.execute("pragma wal_autocheckpoint=0")
        self.open.execute("insert into t(x) values (randomblob(2000000))")
        self.machine.write_config("PackSizeMiB=1\n")
        self.service("app", self.top)
        self.first = self.create("app")["backup_id"]

    def write(self):
        """The service goes on: it never waits for long, whoever has died. Returns how many rows there are."""
        for name, uid in (("root.db", 0), ("owned/owned.db", OWNER)):
            sites.sql(os.path.join(self.top, name), "insert into t(x) values (randomblob(3000))", uid)

    def change(self):
        self.write()
        with open(os.path.join(self.top, "large"), "r+b") as f:
            f.seek(random.randrange(12) << 20)
            f.write(os.urandom(300000))

    def rows(self):
        return self.machine.json("list", "--limit", "500")["backups"]

    def whole(self):
        """What is listed is there, and what is there is listed; of images, too; the oldest can be read to its end."""
        listed = self.rows()
        assert {b["backup_id"] for b in listed if b["status"] in ("completed", "partial")} == set(self.records())
        assert not [b for b in listed if b["status"] == "running"]
        for backup in [self.first] + [b["backup_id"] for b in listed if b["status"] == "completed"][:2]:
            self.machine.cli("verify", backup, "--depth", "data")

    def next_run(self):
        self.write()
        backup = self.create("app")
        assert (backup["status"], backup["consistency"]) == ("completed", "application")
        hot = [b for b in self.rows() if "hot" in b["copies"]]
        assert len(self.images()) == len(hot)
        assert not [n for n in self.packs() if n.startswith(".tmp")]
        self.whole()
        return backup["backup_id"]


@pytest.fixture(scope="module")
def site(install):
    with holdpoint.LoopFs("btrfs", 2048) as fs, holdpoint.Machine(install) as machine:
        machine.start()
        s = Site(machine, fs)
        s.fill()
        yield s
        s.open.close()


@pytest.fixture
def bus(site):
    with Client(site.machine.bus.address) as client:
        yield client


def settle(site):
    """The workers of an agent that is gone come to their end by themselves; a new agent learns what there is."""
    m = site.machine
    holdpoint.wait_until(lambda: not m.workers.pids(), "the end of all workers", 60)
    m.agent.start(m.bus)
    with Client(m.bus.address) as client:
        holdpoint.wait_until(lambda: not client.get("RunningJobs") and any(
            j["type"] == "reconcile" and j["result"] for j in client.call("ListJobs", "a{sv}", [{}])[:3]), "the first reconcile", 60)


# --- the agent -------------------------------------------------------------------------------------------

AT = [("create", s) for s in ("before-hold", "held", "sealed", "stored", "packs-finished", "committed")]
AT += [("delete", "record-deleted"), ("prune", "marked"), ("prune", "condemned"), ("prune", "pack-unlinked")]
CLASS = {"create": "backup", "delete": "maintain", "prune": "maintain"}


@pytest.mark.parametrize("verb, step", AT)
def test_agent_killed_at_a_step(site, verb, step):
    m = site.machine
    site.change()
    doomed = site.create("app")["backup_id"]
    arguments = {"create": ["app"], "delete": [doomed, "--yes"], "prune": ["--yes"]}[verb]
    if verb == "prune":
        m.cli("delete", doomed, "--yes")
    m.workers.restart(CLASS[verb], HOLDPOINT_STEP=step + "=stop")
    job = m.json(verb, *arguments, "--no-wait")
    pid = holdpoint.wait_until(lambda: next((p for p in m.workers.pids() if sites.is_stopped(p)), None), "the step", 30)
    m.agent.kill()
    os.kill(pid, signal.SIGCONT)
    settle(site)
    m.workers.restart(CLASS[verb])
    ended = m.json("jobs", job["job"])
    assert (ended["state"], ended["result"], ended["error_name"].rpartition(".")[2]) == ("finished", "interrupted", "Interrupted")
    site.whole()
    # What had happened for good has happened, the rest has not.
    if verb == "create":
        assert (job["backup_id"] in site.records()) == (step in ("packs-finished", "committed"))
    elif verb == "delete":
        assert doomed not in site.records() and m.call("show", doomed).returncode == 5
    site.next_run()
    if verb != "create":
        m.cli("prune", "--yes")
        site.whole()


def test_agent_killed_at_any_time(site):
    """Wherever it happens to be."""
    m, rng = site.machine, random.Random(SEED)
    for n in range(max(4, STEPS // 3)):
        verb = ("create", "prune")[n % 2]
        site.change()
        if verb == "prune":
            m.cli("delete", site.create("app")["backup_id"], "--yes")
        job = m.json(verb, *{"create": ["app"], "prune": ["--yes"]}[verb], "--no-wait")["job"]
        began = time.monotonic()
        time.sleep(rng.uniform(0, 0.3))
        m.agent.kill()
        settle(site)
        assert m.json("jobs", job)["state"] == "finished", (verb, time.monotonic() - began)
        site.whole()
    site.next_run()


# --- the worker ------------------------------------------------------------------------------------------

def kill_worker(site):
    """Of the class maintain or backup, while it is at its job."""
    pid = holdpoint.wait_until(lambda: next((p for p in site.machine.workers.pids() if "holdpoint-worker" in sites.command(p)), None),
                               "the worker", 30)
    os.kill(pid, signal.SIGKILL)


def is_interrupted(bus, job):
    result, summary = bus.wait_job(job, 60)
    assert (result, summary["error_name"].rpartition(".")[2]) == ("interrupted", "Interrupted")


def test_while_files_are_listed(site, bus):
    """The pipe is full, so it has not come to its end; what was read has no end mark."""
    fd, (job,) = bus.stream("ListFiles", "sssa{sv}", [site.first, "", "", {}])
    with os.fdopen(fd, "rb") as f:
        head = f.read(1000)
        kill_worker(site)
        data = head + f.read()
    assert b'"end":true' not in data and len(data) > 60000
    is_interrupted(bus, job)
    assert '"end":true' in site.machine.cli("files", site.first, "--json").stdout
    site.whole()


def test_while_it_is_exported(site, bus, tmp_path):
    fd, (job,) = bus.stream("OpenBackup", "sa{sv}", [site.first, {"format": variant("s", "tar")}])
    with os.fdopen(fd, "rb") as f:
        head = f.read(1000)
        kill_worker(site)
        data = head + f.read()
    assert not data.endswith(bytes(1024))
    is_interrupted(bus, job)
    # The command line's file is there when it is whole, and not before.
    with killed(site, "maintain", "pread64", 20):
        done = site.machine.call("export", site.first, "-o", str(tmp_path / "a.tar"), "--format", "tar")
    assert done.returncode == 1 and "phase export" in done.stderr and os.listdir(tmp_path) == []
    site.machine.cli("export", site.first, "-o", str(tmp_path / "a.tar"), "--format", "tar")
    holdpoint.run("tar", "-tf", str(tmp_path / "a.tar"))


@pytest.mark.parametrize("step", ["", "pack-published@3", "packs-finished"])
def test_while_it_is_imported(site, bus, tmp_path, step):
    """Half an archive is no backup, nor is a whole one half of which is stored; what is left of it is garbage."""
    archive, new, m = tmp_path / "a.tar", tmp_path / "new", site.machine
    new.write_bytes(os.urandom(6 << 20))
    holdpoint.run("tar", "-C", tmp_path, "--transform", "s,^,foreign/srv/,", "-cf", archive, "new")
    data, before, packs = archive.read_bytes(), site.records(), site.packs()
    if step:
        m.workers.restart("backup", HOLDPOINT_STEP=step + "=kill")
    ours, theirs = os.pipe()
    backup, job = bus.call("ImportBackup", "hsa{sv}", [0, "half", {}], fds=[ours])
    os.close(ours)
    with os.fdopen(theirs, "wb", buffering=0) as f:
        sent = 0
        while sent < (len(data) if step else len(data) // 2):
            sent += f.write(data[sent:sent + 65536])
        if not step:
            kill_worker(site)
    is_interrupted(bus, job)
    m.workers.restart("backup")
    holdpoint.wait_until(lambda: m.json("show", backup)["status"] == "failed", "the row")
    assert site.records() == before and (site.packs() != packs) == bool(step)
    whole = m.json("import", str(archive))["backup_id"]
    m.cli("verify", whole)
    m.cli("delete", whole, "--yes")
    m.cli("prune", "--yes")
    assert len(site.packs()) <= len(packs)
    site.whole()


def test_while_it_is_verified(site, bus):
    """A verification that did not end says nothing of the backup."""
    backup = site.next_run()
    site.machine.cli("verify", backup)
    before = site.machine.json("show", backup)
    with killed(site, "maintain", "pread64", 20):
        job = bus.call("VerifyBackup", "sa{sv}", [backup, {"depth": variant("s", "data")}])
        is_interrupted(bus, job)
    after = site.machine.json("show", backup)
    assert [after[k] for k in ("verified_at", "verified_depth", "verified_result")] == [
        before[k] for k in ("verified_at", "verified_depth", "verified_result")]
    site.whole()


@contextlib.contextmanager
def killed(site, name, call, when):
    """Workers of a class are killed in their so manieth call of this kind."""
    m = site.machine
    wrapper = os.path.join(m.directory, "killed-worker")
    with open(wrapper, "w") as f:
        f.write("#!/bin/sh\nexec strace -f -qq -o /dev/null -e trace=%s -e inject=%s:signal=KILL:when=%d %s \"$@\"\n" % (
            call, call, when, m.install.worker))
    os.chmod(wrapper, 0o755)
    m.workers.stop(name)
    worker, m.install.worker = m.install.worker, wrapper
    try:
        m.workers.start(name)
        yield
    finally:
        m.install.worker = worker
        m.workers.restart(name)


# --- the helper ------------------------------------------------------------------------------------------

KILLER = """#!/bin/sh
# Whatever the helper has open is the helper's alone: else nobody would see its end.
[ "$1" = "%s" ] && (exec 0<&- 1>&- 2>&- 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; sleep %f; kill -KILL $$ && touch "%s") &
exec %s "$@"
"""


@contextlib.contextmanager
def doomed_helpers(site, mode, delay):
    """Helpers of one mode are killed so long after their start. Yields what tells whether one was."""
    m = site.machine
    directory = os.path.join(m.directory, "doomed")
    marker = os.path.join(directory, "killed")
    os.makedirs(directory, exist_ok=True)
    os.chmod(directory, 0o777)  # the owners of databases leave the mark
    program = os.path.join(directory, "holdpoint-sqlite")
    with open(program, "w") as f:
        f.write(KILLER % (mode, delay, marker, os.path.join(m.install.libexec, "holdpoint-sqlite")))
    os.chmod(program, 0o755)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(marker)
    m.workers.restart("backup", HOLDPOINT_LIBEXECDIR=directory)
    try:
        yield lambda: os.path.exists(marker)
    finally:
        m.workers.restart("backup")


def content(path):
    with contextlib.closing(sqlite3.connect("file:%s?mode=ro" % path, uri=True)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        return db.execute("select n, x from t order by n").fetchall()


def test_helper_killed_at_any_time(site):
    """What says that it is whole is whole; what is not says which database it is."""
    m, rng, outcomes = site.machine, random.Random(SEED), []
    for n in range(STEPS * 2 // 3):
        site.change()
        live = {name: content(os.path.join(site.top, name)) for name in ("root.db", "owned/owned.db")}
        mode, delay = (("hold", 0.05), ("image", 0.015))[n % 2]
        with doomed_helpers(site, mode, rng.uniform(0, delay)) as killed:
            done = m.call("create", "app", "--json")
            was_killed = killed()
        site.write()
        row = site.rows()[0]
        bad = {os.path.relpath(d["path"], site.top): d for d in row["databases"] if d["check"] not in ("ok", "unchecked")}
        outcomes.append((mode, done.returncode, row["status"], row["consistency"], was_killed, sorted(bad)))
        assert (done.returncode, row["status"]) in ((0, "completed"), (3, "partial"), (1, "failed")), (outcomes[-1], done.stderr)
        if row["status"] == "failed":
            continue
        assert (row["status"] == "partial") == bool(bad), outcomes[-1]
        assert all(d["problem"] for d in bad.values())
        for name in set(live) - set(bad):
            with tempfile.TemporaryDirectory(dir=site.fs.path) as out:
                m.cli("restore", row["backup_id"], "--path", name, "--into", out, "--from", rng.choice(("hot", "local")), "--allow-partial")
                assert os.listdir(out) == [os.path.basename(name)], "recovered: no log beside it"
                assert content(os.path.join(out, os.path.basename(name))) == live[name], (name, outcomes[-1])
    print(outcomes)
    assert sum(was_killed for *_, was_killed, _ in outcomes) >= STEPS // 6
    site.next_run()
