"""The instant of a backup: what is said of it, and what hostile or stopped processes can do to it."""

import contextlib
import os
import signal
import sqlite3
import struct
import subprocess
import time

import holdpoint
import pytest
import sites
from sites import sql

OWNER = 65534


@pytest.fixture(scope="module")
def shared(install):
    with sites.open_site(install) as site:
        yield site


@pytest.fixture
def site(shared):
    yield shared
    shared.forget()


def make_database(path, mode="delete", rows=50, owner=0):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sql(path, "PRAGMA journal_mode=%s; CREATE TABLE t(n INTEGER PRIMARY KEY, d TEXT);"
              "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < %d)"
              " INSERT INTO t SELECT i, 'old' FROM c" % (mode, rows))
    for p in (os.path.dirname(path), path):
        os.chown(p, owner, owner)


def values(path):
    """The distinct values of t.d, by a process that leaves no side files open."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        return {row[0] for row in db.execute("SELECT DISTINCT d FROM t")}


def values_in(site, backup, service, path):
    with site.extracted(backup["backup_id"]) as output:
        return values(os.path.join(output, service) + path)


@contextlib.contextmanager
def grip(path):
    """Holds the write lock for the length of the block."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("ROLLBACK")


# --- what is said --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_application(site, mode):
    path = os.path.join(site.fs.subvolume("application-" + mode), "x.db")
    make_database(path, mode, owner=OWNER)
    site.service("app", os.path.dirname(path))
    backup = site.create("app")
    assert (backup["consistency"], backup["service_consistency"]) == ("application", {"app": "application"})
    [database] = backup["databases"]
    assert (database["owner"], database["captured"], database["held"]) == (OWNER, "image", True)
    assert 0 < database["pause_usec"] <= backup["pause_usec"] < 1000000


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_writer_that_never_ends(site, mode):
    root = site.fs.subvolume("endless-" + mode)
    free, busy = os.path.join(root, "free.db"), os.path.join(root, "busy.db")
    make_database(free, mode)
    make_database(busy, mode)
    site.service("app", root)
    with grip(busy) as db:
        db.execute("UPDATE t SET d = 'new'")
        began = time.monotonic()
        backup = site.create("app")
        assert time.monotonic() - began < 5
        assert (backup["result"], backup["consistency"]) == ("done", "crash")
        assert {os.path.basename(d["path"]): d["held"] for d in backup["databases"]} == {"free.db": True, "busy.db": False}
        site.machine.write_config("[Hold]\nOnTimeout=fail\n")
        site.machine.reload()
        said = site.refused("app")
        assert "HoldTimeout" in said and busy in said
        assert free not in said
    assert values_in(site, backup, "app", busy) == {"old"}
    assert site.create("app")["consistency"] == "application"


def test_a_mix_is_as_weak_as_its_weakest(site):
    roots = {name: site.fs.subvolume("mix", name) for name in ("held", "busy", "live")}
    for root in roots.values():
        make_database(os.path.join(root, "x.db"), "wal")
    site.service("held", roots["held"])
    site.service("busy", roots["busy"])
    with grip(os.path.join(roots["busy"], "x.db")):
        backup = site.create("full")
        assert backup["service_consistency"] == {"held": "application", "busy": "crash"}
        assert backup["consistency"] == "crash"
        site.service("live", roots["live"], Snapshot="none")
        backup = site.create("full")
    assert backup["service_consistency"] == {"held": "application", "busy": "crash", "live": "none"}
    assert backup["consistency"] == "none"


@pytest.mark.parametrize("kind", ["btrfs", "ext4"])
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_without_a_snapshot(site, kind, mode):
    with contextlib.ExitStack() as stack:
        fs = site.fs if kind == "btrfs" else stack.enter_context(holdpoint.LoopFs(kind, 128))
        stack.callback(site.forget)
        path = os.path.join(fs.directory("live-" + mode), "x.db")
        make_database(path, mode, owner=OWNER)
        site.service("live", os.path.dirname(path), Snapshot="none")
        before = site.images()
        backup = site.create("live")
        assert backup["consistency"] == "none" and backup["copies"] == ["local"]
        assert [(d["captured"], d["check"]) for d in backup["databases"]] == [("online-backup", "ok")]
        assert site.images() == before
        assert values_in(site, backup, "live", path) == {"old"}
        with site.extracted(backup["backup_id"]) as output:
            names = os.listdir(os.path.join(output, "live") + os.path.dirname(path))
        assert names == ["x.db"], "side files of a copied database belong to the live one"
        assert os.listdir(os.path.join(site.machine.worker_state, "copies")) == []


def test_online_backup_beside_a_snapshot(site):
    """The copy is of the pinned instant, which is that of the files; a rollback journal cannot be pinned."""
    root = site.fs.subvolume("online")
    path, note = os.path.join(root, "x.db"), os.path.join(root, "note")
    make_database(path, "wal", owner=OWNER)
    with open(note, "w") as f:
        f.write("old")
    site.service("online", root, DatabaseCapture="online-backup")
    before = site.images()
    with site.at_step("point-taken", "online") as run:
        sql(path, "UPDATE t SET d='new'", OWNER)
        with open(note, "w") as f:
            f.write("new")
    backup = run.backup
    assert (backup["consistency"], backup["copies"]) == ("application", ["local"])
    assert site.images() == before
    with site.extracted(backup["backup_id"]) as output:
        assert open(os.path.join(output, "online") + note).read() == "old"
        assert values(os.path.join(output, "online") + path) == {"old"}
    sql(path, "PRAGMA journal_mode=delete", OWNER)
    backup = site.create("online")
    assert backup["consistency"] == "none"
    assert values_in(site, backup, "online", path) == {"new"}


def test_databases_that_are_listed(site):
    root = site.fs.subvolume("listed")
    for name in ("a.db", "b.db"):
        make_database(os.path.join(root, name))
    site.service("listed", root, Database=os.path.join(root, "b.db"))
    assert [d["path"] for d in site.create("listed")["databases"]] == [os.path.join(root, "b.db")]
    site.service("listed", root, Databases="none")
    backup = site.create("listed")
    assert backup["databases"] == []
    assert values_in(site, backup, "listed", os.path.join(root, "a.db")) == {"old"}


# --- what changes between the look and the hold ----------------------------------------------------------


def test_a_database_that_came_too_late(site):
    root = site.fs.subvolume("late")
    make_database(os.path.join(root, "x.db"))
    site.service("late", root)
    with site.at_step("before-hold", "late") as run:
        make_database(os.path.join(root, "y.db"))
    assert (run.backup["status"], run.backup["consistency"]) == ("completed", "crash")
    assert values_in(site, run.backup, "late", os.path.join(root, "y.db")) == {"old"}
    assert site.create("late")["consistency"] == "application"


def test_a_database_that_was_replaced(site):
    root = site.fs.subvolume("replaced")
    path = os.path.join(root, "x.db")
    make_database(path)
    site.service("replaced", root)
    site.create("replaced")
    with site.at_step("before-hold", "replaced") as run:
        make_database(path + ".new", rows=10)
        os.rename(path + ".new", path)
    assert (run.backup["status"], run.backup["consistency"]) == ("completed", "crash")
    with site.extracted(run.backup["backup_id"]) as output:
        assert sql(os.path.join(output, "replaced") + path, "SELECT count(*) FROM t") == "10"


def test_a_database_that_went(site):
    root = site.fs.subvolume("went")
    for name in ("stays.db", "goes/x.db"):
        make_database(os.path.join(root, name))
    site.service("went", root)
    with site.at_step("before-hold", "went") as run:
        os.rename(os.path.join(root, "goes"), os.path.join(root, "other"))
        os.symlink("/etc", os.path.join(root, "goes"))
    assert run.backup["status"] == "partial"
    assert os.path.join(root, "goes/x.db") in run.backup["metadata"]
    assert values_in(site, run.backup, "went", os.path.join(root, "stays.db")) == {"old"}


# --- hot journals ----------------------------------------------------------------------------------------


def hot_journal(path, super_journal=None):
    """The journal of a writer that died half way: the database says 'new', the journal 'old'."""
    script = ("import sqlite3, os\n"
              "db = sqlite3.connect(%r, isolation_level=None)\n"
              "db.execute('PRAGMA cache_size=1'); db.execute('PRAGMA cache_spill=1')\n"
              "db.execute('BEGIN IMMEDIATE')\n"
              "db.execute(\"UPDATE t SET d = 'new' || printf('%%0200d', n)\")\n"
              "os._exit(0)\n" % path)
    subprocess.run(["/usr/bin/python3", "-c", script], check=True)
    assert os.path.getsize(path + "-journal") > 512
    if super_journal:
        name = os.fsencode(super_journal)
        with open(path + "-journal", "ab") as f:
            f.write(struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) +
                    bytes.fromhex("d9d505f920a163d7"))


def test_a_journal_that_names_a_victim(site):
    root, outside = site.fs.subvolume("crafted"), os.path.join(site.fs.path, "crafted-victim")
    inside = os.path.join(root, "victim")
    for victim in (inside, outside, "/etc/hostname"):
        path = os.path.join(root, os.path.basename(victim) + ".db")
        make_database(path, rows=3000)
        if not os.path.exists(victim):
            with open(victim, "wb") as f:
                f.write(b"valuable")
        hot_journal(path, victim)
    content = {v: open(v, "rb").read() for v in (inside, outside, "/etc/hostname")}
    journals = [n for n in os.listdir(root) if n.endswith("-journal")]
    site.service("crafted", root)
    for _ in range(2):
        backup = site.machine.call("create", "crafted", "--json")
        assert backup.returncode in (0, 3), backup.stdout + backup.stderr
        assert {v: open(v, "rb").read() for v in content} == content
        assert [n for n in os.listdir(root) if n.endswith("-journal")] == journals, "the live journals were touched"
    # Where the name leads out of the backup, nothing is known, and that is said.
    assert backup.returncode == 3 and "crash" in backup.stdout
    for name in ("crafted-victim.db", "hostname.db"):
        assert name in backup.stdout


def test_a_dead_writer_is_rolled_back(site):
    root = site.fs.subvolume("dead")
    path = os.path.join(root, "x.db")
    make_database(path, rows=3000)
    hot_journal(path)
    before = os.path.getsize(path + "-journal")
    site.service("dead", root)
    backup = site.create("dead")
    assert backup["consistency"] == "crash", "nobody can hold a database with a hot journal"
    assert os.path.getsize(path + "-journal") == before
    assert values_in(site, backup, "dead", path) == {"old"}
    again = site.create("dead")
    assert again["checksum"] == backup["checksum"]


class Attached:
    """A commit over two databases that stops right before its super-journal is deleted."""

    SCRIPT = ("import sqlite3, sys\n"
              "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
              "db.execute('ATTACH ? AS other', (sys.argv[2],))\n"
              "db.execute('BEGIN IMMEDIATE')\n"
              "db.execute(\"UPDATE main.t SET d='new'\")\n"
              "db.execute(\"UPDATE other.t SET d='new'\")\n"
              "db.execute('COMMIT')\n")

    def __init__(self, first, second):
        self.first, self.second = first, second

    def super_journals(self):
        return [n for n in os.listdir(os.path.dirname(self.first)) if "-mj" in n]

    def __enter__(self):
        # strace keeps the first unlink() from beginning: that of the super-journal.
        self.process = subprocess.Popen(
            ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=unlink", "-e",
             "inject=unlink:delay_enter=60s:when=1", "/usr/bin/python3", "-c", self.SCRIPT, self.first, self.second],
            stdin=subprocess.DEVNULL, start_new_session=True)
        self.writer = holdpoint.wait_until(
            lambda: self.super_journals() and holdpoint.processes_below(self.process.pid), "the commit")[0]
        holdpoint.wait_until(lambda: state_of(self.writer) == "t", "the stop before unlink()")
        return self

    def finish(self):
        """Lets the commit go on to its end: a tracee runs when its tracer goes."""
        self.process.kill()
        self.process.wait()
        holdpoint.wait_until(lambda: state_of(self.writer) in "XZ", "the end of the writer")
        assert self.super_journals() == []

    def __exit__(self, *exc):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        holdpoint.wait_until(lambda: state_of(self.writer) in "XZ", "the end of the writer")


def state_of(pid):
    """As in /proc; "X" when it is gone."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@pytest.mark.parametrize("step", [None, "point-taken"])
def test_a_commit_over_two_databases(site, step):
    """Both old or both new, whether or not the live super-journal is gone by the time of the recovery."""
    name = "attach-%s" % (step or "whole")
    root, other = site.fs.subvolume(name), site.fs.subvolume(name + "-other")
    first, second = os.path.join(root, "first.db"), os.path.join(other, "second.db")
    make_database(first)
    make_database(second)
    site.service("pair", [root, other])
    with Attached(first, second) as commit:
        if step:
            with site.at_step(step, "pair") as run:
                commit.finish()
            backup = run.backup
        else:
            backup = site.create("pair")
            commit.finish()
    assert (backup["status"], backup["consistency"]) == ("completed", "crash")
    with site.extracted(backup["backup_id"]) as output:
        found = [values(os.path.join(output, "pair") + p) for p in (first, second)]
        assert not [n for _, _, names in os.walk(output) for n in names if n.endswith("-journal")]
    assert found in ([{"old"}, {"old"}], [{"new"}, {"new"}]), found
    # The next one has what the commit made of both, not what the last one read.
    backup = site.create("pair")
    with site.extracted(backup["backup_id"]) as output:
        assert [values(os.path.join(output, "pair") + p) for p in (first, second)] == [{"new"}, {"new"}]


def test_half_a_commit_is_not_taken_for_unchanged(site):
    """The super-journal goes, the journals stay: the same files of the database now mean another content."""
    root = site.fs.subvolume("half")
    first, second = os.path.join(root, "first.db"), os.path.join(root, "second.db")
    make_database(first)
    make_database(second)
    site.service("half", root)
    with Attached(first, second) as commit:
        before = site.create("half")
        assert values_in(site, before, "half", second) == {"old"}
        [super_journal] = commit.super_journals()
    os.unlink(os.path.join(root, super_journal))  # the writer got so far, and died
    after = site.create("half")
    with site.extracted(after["backup_id"]) as output:
        assert [values(os.path.join(output, "half") + p) for p in (first, second)] == [{"new"}, {"new"}]


# --- processes that stop -----------------------------------------------------------------------------------


def test_a_helper_that_stops_while_it_holds(site):
    path = os.path.join(site.fs.subvolume("stopped"), "x.db")
    make_database(path, "wal", owner=OWNER)
    site.service("stopped", os.path.dirname(path))
    with site.at_step("held", "stopped") as run:
        [helper] = run.helpers()
        os.kill(helper, signal.SIGSTOP)
        time.sleep(0.05)
        began = time.monotonic()
        run.go_on()
        sql(path, "UPDATE t SET d='new' WHERE n=1", OWNER)
        assert time.monotonic() - began < 2.5
    assert not os.path.exists("/proc/%d" % helper)
    assert run.backup["status"] == "completed" and run.backup["pause_usec"] < 2500000
    assert values_in(site, run.backup, "stopped", path) <= {"old", "new"}


def test_a_worker_that_stops_while_it_holds(site):
    """MaxHoldMSec is the helper's own matter: it lets go, and the backup says so."""
    path = os.path.join(site.fs.subvolume("slow"), "x.db")
    make_database(path, "wal", owner=OWNER)
    site.machine.write_config("[Hold]\nMaxHoldMSec=300\n")
    site.service("slow", os.path.dirname(path))
    with site.at_step("held", "slow") as run:
        began = time.monotonic()
        sql(path, "UPDATE t SET d='new'", OWNER)
        assert time.monotonic() - began < 2
    assert (run.backup["status"], run.backup["consistency"]) == ("completed", "crash")
