"""What a backup holds, what it reads and stores, what it refuses, and what it leaves behind."""

import contextlib
import fcntl
import json
import os
import random
import shutil
import socket
import sqlite3
import stat

import holdpoint
import pytest
import sites
import trees
from sites import sql


@pytest.fixture(scope="module")
def shared(install):
    with sites.open_site(install) as site:
        yield site


@pytest.fixture
def site(shared):
    yield shared
    shared.forget()


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def make_database(path, megabytes=1, mode="delete", owner=None):
    sql(path, "PRAGMA journal_mode=%s; CREATE TABLE t(n INTEGER PRIMARY KEY, d BLOB);"
              "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < %d)"
              " INSERT INTO t SELECT i, randomblob(1000) FROM c" % (mode, megabytes * 1000))
    if owner:
        for p in (os.path.dirname(path), path):
            os.chown(p, owner, owner)


def held(top):
    """A tree as its backup must have it: databases without side files, whose coming and going moves the
    time of their directory."""
    found = {p: d for p, d in trees.describe(top).items() if not p.endswith((b"-wal", b"-shm"))}
    for path in list(found):
        if path.endswith(b".db"):
            found[os.path.dirname(path) or b"."].pop("mtime", None)
    return found


def assert_same(site, backup_id, service, *paths):
    with site.extracted(backup_id) as output:
        for path in paths:
            copy = os.path.join(output, service) + path
            assert trees.differences(held(path), held(copy)) == []


def forget_all(site):
    """The worker knows nothing any more: the next run is the oracle for the last one."""
    for name in ("base", "index.db", "index.db-wal", "index.db-shm"):
        path = os.path.join(site.machine.worker_state, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.unlink(path)


def oracle(site, service):
    forget_all(site)
    return site.create(service)["checksum"]


# --- content -------------------------------------------------------------------------------------------


def test_all_kinds_of_paths(site):
    one, two = site.fs.subvolume("kinds", "one"), site.fs.subvolume("kinds", "two")
    plain, single = os.path.join(site.fs.path, "kinds", "plain"), os.path.join(site.fs.path, "kinds", "single.conf")
    for number, make in enumerate((trees.make_names, trees.make_attributes)):
        os.mkdir(os.path.join(one, str(number)))
        make(os.fsencode(os.path.join(one, str(number))))
    make_database(os.path.join(two, "a.db"), mode="wal", owner=65534)
    os.mkdir(os.path.join(two, "b"))
    make_database(os.path.join(two, "b", "b.db"))
    write(os.path.join(plain, "deep", "er", "file"), b"plain")
    write(single, b"single")
    site.service("first", one)
    site.service("second", [two, plain, single])
    backup = site.create("full")
    assert backup["result"] == "done" and backup["consistency"] == "application"
    assert backup["services"] == ["first", "second"]
    assert {d["path"]: d["owner"] for d in backup["databases"]} == {
        os.path.join(two, "a.db"): 65534, os.path.join(two, "b", "b.db"): 0}
    assert all(d["held"] and d["check"] == "ok" for d in backup["databases"])
    assert_same(site, backup["backup_id"], "first", one)
    assert_same(site, backup["backup_id"], "second", two, plain, single)


def test_databases_alone(site):
    path = site.fs.subvolume("alone")
    os.makedirs(os.path.join(path, "deep", "er"))
    make_database(os.path.join(path, "deep", "er", "x.db"))
    write(os.path.join(path, "deep", "file"), b"file")
    write(os.path.join(path, "other", "file"), b"file")
    site.service("alone", path)
    full = site.create("alone")
    backup = site.create("alone", "--no-include-files")
    with site.extracted(backup["backup_id"]) as output:
        found = {os.path.relpath(p, output + "/alone" + path) for p in
                 (os.path.join(d, n) for d, names, files in os.walk(output + "/alone" + path) for n in names + files)}
    assert found == {"deep", "deep/er", "deep/er/x.db"}
    assert json.loads(backup["metadata"])["include_files"] is False
    # The base of the files is still there for the next whole one.
    again = site.create("alone")
    assert again["read_bytes"] == 0 and again["checksum"] == full["checksum"]


def test_databases_alone_are_all(site):
    """More of them than are held at once: what is missing is said."""
    path = site.fs.subvolume("many")
    make_database(os.path.join(path, "0.db"))
    for n in range(1, 501):
        shutil.copyfile(os.path.join(path, "0.db"), os.path.join(path, "%d.db" % n))
    site.service("many", path)
    backup = site.create("many", "--no-include-files", exit_code=3)
    assert backup["status"] == "partial" and "more than 500 databases" in backup["metadata"]


def test_pinned(site):
    site.service("pinned", site.fs.subvolume("pinned"))
    assert site.create("pinned", "--pinned")["pinned"] is True
    assert site.create("pinned")["pinned"] is False


# --- incremental ---------------------------------------------------------------------------------------


class Tree:
    """A service whose every kind of change has a budget of bytes read and stored."""

    def __init__(self, site, name):
        self.site, self.name, rng = site, name, random.Random(5)
        self.path = site.fs.subvolume(name)
        for n in range(30):
            write(self.at("files", "f%02d" % n), rng.randbytes(20000))
        write(self.at("folder", "large"), rng.randbytes(3 << 20))
        write(self.at("cache", "c"), rng.randbytes(1000))
        self.database = self.at("big.db")
        make_database(self.database, 30)
        site.service(name, self.path)

    def at(self, *names):
        return os.path.join(self.path, *names)

    def run(self, most_read, most_new):
        backup = self.site.create(self.name)
        assert backup["read_bytes"] <= most_read, "read %d bytes" % backup["read_bytes"]
        assert backup["new_bytes"] <= most_new, "stored %d bytes" % backup["new_bytes"]
        return backup


def rewrite_secretly(t):
    """Same size, same mtime: only ctime tells."""
    before = os.stat(t.at("files", "f03"))
    with open(t.at("files", "f03"), "r+b") as f:
        f.write(b"secret")
    os.utime(t.at("files", "f03"), ns=(before.st_atime_ns, before.st_mtime_ns))


def link_twice(t):
    os.link(t.at("files", "f04"), t.at("files", "a-link"))
    os.link(t.at("files", "f04"), t.at("folder", "link"))


def swap_kinds(t):
    os.unlink(t.at("files", "f05"))
    os.symlink("f06", t.at("files", "f05"))
    os.mkdir(t.at("files", "f07.d"))
    os.rename(t.at("files", "f07"), t.at("files", "f07.d", "f07"))


def exclude_more(t):
    t.site.service(t.name, t.path, Exclude=["cache/**", "files/f1*"])


DATABASE = 32 << 20
CHANGES = [
    ("one file", lambda t: write(t.at("files", "f00"), os.urandom(20000)), 20000, 60000),
    ("same size and mtime", rewrite_secretly, 20000, 60000),
    ("a page of the database", lambda t: sql(t.database, "UPDATE t SET d=randomblob(1000) WHERE n=15000"),
     DATABASE, 4 * 65536 + 40000),
    ("a renamed directory", lambda t: os.rename(t.at("folder"), t.at("renamed")), 3 << 20, 20000),
    ("back again", lambda t: os.rename(t.at("renamed"), t.at("folder")), 3 << 20, 20000),
    ("mode", lambda t: os.chmod(t.at("files", "f02"), 0o600), 20000, 20000),
    ("links", link_twice, 40000, 20000),
    ("a link less", lambda t: os.unlink(t.at("files", "a-link")), 40000, 20000),
    ("other kinds", swap_kinds, 20000, 20000),
    ("an attribute", lambda t: os.setxattr(t.at("files", "f08"), "user.a", b"b"), 20000, 20000),
    ("a new rule", exclude_more, 40000, 20000),
    ("a database's mode", lambda t: os.chmod(t.database, 0o600), DATABASE, 20000),
]


def test_changes(site):
    t = Tree(site, "changes")
    site.create("changes")
    t.run(0, 15000)
    for what, change, most_read, most_new in CHANGES:
        change(t)
        try:
            backup = t.run(most_read, most_new)
            again = t.run(0, 15000)
        except AssertionError as error:
            raise AssertionError("%s: %s" % (what, error)) from error
        assert again["checksum"] == backup["checksum"], what
        saved = os.path.join(site.machine.directory, "saved")
        shutil.copytree(os.path.join(site.machine.worker_state, "base"), saved)
        assert oracle(site, "changes") == backup["checksum"], what
        # Goes on from what the run before the oracle left.
        shutil.rmtree(os.path.join(site.machine.worker_state, "base"))
        os.rename(saved, os.path.join(site.machine.worker_state, "base"))


def test_same_content_is_stored_once(site):
    one, two, data = site.fs.subvolume("same", "one"), site.fs.subvolume("same", "two"), os.urandom(2 << 20)
    write(os.path.join(one, "a"), data)
    write(os.path.join(one, "b"), data)
    write(os.path.join(two, "c"), data)
    site.service("same-one", one)
    site.service("same-two", two)
    backup = site.create("full")
    assert backup["bytes"] == 6 << 20 and backup["new_bytes"] < (2 << 20) + 40000
    assert_same(site, backup["backup_id"], "same-two", two)


def test_a_change_in_the_hold_is_seen_later(site):
    """A file system's clock ticks slowly: what changes around the instant may change again unseen."""
    path = site.fs.subvolume("racy")
    write(os.path.join(path, "quiet"), b"quiet")
    write(os.path.join(path, "busy"), b"1" * 1000)
    make_database(os.path.join(path, "x.db"))
    site.service("racy", path)
    with site.at_step("held", "racy") as run:
        write(os.path.join(path, "busy"), b"2" * 1000)
    assert run.backup["status"] == "completed"
    again = site.create("racy")
    assert again["read_bytes"] == 1000, "what changed under the hold was not read again"
    assert site.create("racy")["read_bytes"] == 0


@pytest.mark.parametrize("owner", [0, 65534])
def test_an_idle_log_is_no_change(site, owner):
    """An application keeps its database open and does nothing: its log is full, and stays as it is."""
    path = os.path.join(site.fs.subvolume("idle-%d" % owner), "x.db")
    make_database(path, mode="wal", owner=owner)
    site.service("idle", os.path.dirname(path))
    with contextlib.closing(sqlite3.connect(path)) as db:
        with db:
            db.execute("UPDATE t SET d = randomblob(1000) WHERE n < 50")
        for name in ("-wal", "-shm"):
            os.chown(path + name, owner, owner)
        assert os.path.getsize(path + "-wal") > 50000
        first, again = site.create("idle"), site.create("idle")
        assert again["read_bytes"] == 0 and again["checksum"] == first["checksum"]
        with db:
            db.execute("UPDATE t SET d = randomblob(1000) WHERE n = 1")
        assert site.create("idle")["checksum"] != first["checksum"]


# --- caches that lie -----------------------------------------------------------------------------------


def spoil(path, offset=None):
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2 if offset is None else offset)
        f.write(b"\xff" * 64)


def put_older(names):
    def replace(state, older):
        for name in names:
            target = os.path.join(state, name)
            if os.path.isdir(target):
                shutil.rmtree(target)
                shutil.copytree(os.path.join(older, name), target)
            else:
                shutil.copy2(os.path.join(older, name), target)
    return replace


LIES = [
    ("no base", lambda state, older: shutil.rmtree(os.path.join(state, "base"))),
    ("no index", lambda state, older: os.unlink(os.path.join(state, "index.db"))),
    ("older base and states", put_older(["base"])),
    ("older base", put_older(["base/lies"])),
    ("older states", put_older(["base/lies.databases"])),
    ("older index", put_older(["index.db"])),
    ("older everything", put_older(["base", "index.db"])),
    ("damaged base", lambda state, older: spoil(os.path.join(state, "base", "lies"))),
    ("damaged states", lambda state, older: spoil(os.path.join(state, "base", "lies.databases"))),
    ("damaged index", lambda state, older: spoil(os.path.join(state, "index.db"), 0)),
    ("empty base", lambda state, older: os.truncate(os.path.join(state, "base", "lies"), 0)),
]


def test_caches_that_lie(site):
    path, state = site.fs.subvolume("lies"), site.machine.worker_state
    for n in range(20):
        write(os.path.join(path, "f%02d" % n), os.urandom(3000))
    make_database(os.path.join(path, "x.db"))
    make_database(os.path.join(path, "w.db"), mode="wal")
    site.service("lies", path)
    for what, lie in LIES:
        site.create("lies")
        older = os.path.join(site.machine.directory, "older")
        shutil.copytree(state, older)
        write(os.path.join(path, "f03"), os.urandom(3000))
        for name in ("x.db", "w.db"):
            sql(os.path.join(path, name), "UPDATE t SET d=randomblob(1000) WHERE n=500")
        changed = site.create("lies")
        lie(state, older)
        after, again = site.create("lies"), site.create("lies")
        assert after["checksum"] == changed["checksum"], what
        assert (again["checksum"], again["read_bytes"]) == (changed["checksum"], 0), what
        shutil.rmtree(older)
    assert oracle(site, "lies") == again["checksum"]
    assert_same(site, again["backup_id"], "lies", path)
    site.machine.cli("verify", again["backup_id"], "--depth", "data")


def test_the_base_of_a_deleted_backup(site):
    path = site.fs.subvolume("deleted")
    write(os.path.join(path, "f"), os.urandom(100000))
    site.service("deleted", path)
    first = site.create("deleted")
    site.machine.json("delete", first["backup_id"], "--yes")
    second = site.create("deleted")
    assert second["checksum"] == first["checksum"] and second["parent_id"] == ""
    site.machine.cli("verify", second["backup_id"], "--depth", "data")
    assert_same(site, second["backup_id"], "deleted", path)


# --- partial, refused ----------------------------------------------------------------------------------


def damage_database(path):
    """Whole pages of rows are overwritten; the header stays that of a database."""
    with open(path, "r+b") as f:
        f.seek(4096 * 20)
        f.write(os.urandom(4096 * 10))


@pytest.mark.parametrize("snapshot", ["auto", "none"])
def test_a_damaged_database_is_partial(site, snapshot):
    path = site.fs.subvolume("damaged-" + snapshot)
    for name in ("good.db", "bad.db"):
        make_database(os.path.join(path, name))
    write(os.path.join(path, "file"), b"file")
    site.service("damaged", path, Snapshot=snapshot)
    good = site.create("damaged")
    assert {d["check"] for d in good["databases"]} == {"ok"}
    damage_database(os.path.join(path, "bad.db"))
    for _ in range(2):  # also when nothing changed since: it is looked at again
        backup = site.create("damaged", exit_code=3)
        assert (backup["result"], backup["status"]) == ("partial", "partial")
        verdicts = {os.path.basename(d["path"]): d["check"] for d in backup["databases"]}
        assert verdicts == {"good.db": "ok", "bad.db": "damaged"}
        problems = json.loads(backup["metadata"])["problems"]
        assert [p["path"] for p in problems] == [os.path.join(path, "bad.db")]
        assert problems[0]["error"]["name"] == "IntegrityFailure"
    assert site.machine.json("show", "latest")["backup_id"] == good["backup_id"]
    with site.extracted(backup["backup_id"]) as output:
        assert open(os.path.join(output, "damaged") + path + "/file").read() == "file"


def test_what_is_no_file(site):
    path = site.fs.subvolume("odd")
    os.mkfifo(os.path.join(path, "fifo.db"))
    os.mkdir(os.path.join(path, "directory.db"))
    os.mkdir(os.path.join(path, "x.db-wal"))
    write(os.path.join(path, "text.db"), b"SQLite format 3\0" + bytes(1000))
    write(os.path.join(path, "short.db"), b"SQLite format 3\0")
    os.symlink("/etc/passwd", os.path.join(path, "link.db"))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.join(path, "socket"))
    site.service("odd", path)
    backup = site.create("odd")
    assert backup["databases"] == [] and json.loads(backup["metadata"])["sockets"] == 1
    assert_same(site, backup["backup_id"], "odd", path)


def test_a_side_file_that_is_none(site):
    path = site.fs.subvolume("side")
    make_database(os.path.join(path, "x.db"))
    os.mkfifo(os.path.join(path, "x.db-journal"))
    site.service("side", path)
    backup = site.create("side", exit_code=3)
    assert [(p["path"], p["error"]["name"]) for p in json.loads(backup["metadata"])["problems"]] == [
        (os.path.join(path, "x.db"), "SourceMissing")]
    assert stat.S_ISFIFO(os.lstat(os.path.join(path, "x.db-journal")).st_mode)


def test_missing_sources(site):
    path = site.fs.subvolume("missing")
    write(os.path.join(path, "f"), b"f")
    gone = os.path.join(path, "gone")
    site.service("missing", [os.path.join(path, "f"), gone])
    said = site.refused("missing")
    assert "SourceMissing" in said and gone in said
    site.service("missing", path, Database=gone + ".db")
    said = site.refused("missing")
    assert "SourceMissing" in said and gone + ".db" in said
    os.symlink(path, os.path.join(site.fs.path, "link-to-missing"))
    site.service("missing", os.path.join(site.fs.path, "link-to-missing"))
    assert "is a symbolic link" in site.refused("missing")


def test_nested_subvolumes_and_mounts(site):
    path = site.fs.subvolume("nested")
    inner = site.fs.subvolume("nested", "in", "ner")
    write(os.path.join(inner, "f"), b"f")
    site.service("nested", path)
    said = site.refused("nested")
    assert "SnapshotFailed" in said and inner in said
    site.service("nested", path, Exclude="in/ner")
    assert site.create("nested")["result"] == "done"
    mount = os.path.join(path, "mounted")
    os.mkdir(mount)
    holdpoint.run("mount", "-t", "tmpfs", "none", mount)
    try:
        backup = site.create("nested", exit_code=3)
        assert [p["path"] for p in json.loads(backup["metadata"])["problems"]] == [mount]
        for snapshot in ("auto", "none"):  # there may be databases on it
            site.service("nested", path, Exclude="in/ner", Snapshot=snapshot)
            backup = site.create("nested", "--no-include-files", exit_code=3)
            assert [p["path"] for p in json.loads(backup["metadata"])["problems"]] == [mount]
        site.service("nested", path, Exclude=["in/ner", "mounted"])
        assert site.create("nested")["result"] == "done"
    finally:
        holdpoint.run("umount", mount)


def test_a_repository_is_no_source(site):
    site.machine.write_service("itself", os.path.dirname(site.machine.repository))
    with pytest.raises(holdpoint.FixtureError, match="ConfigurationInvalid"):
        site.machine.reload()


# --- what is left behind -------------------------------------------------------------------------------


def test_a_vanished_repository(site):
    """A disk that is not mounted is not a repository that was never made."""
    data = os.path.join(site.fs.path, "vanished")
    write(os.path.join(data, "f"), b"content")
    site.service("vanished", data)
    first = site.create("vanished")["backup_id"]
    machine = site.machine
    os.rename(machine.repository, machine.repository + ".away")
    try:
        os.mkdir(machine.repository, 0o700)
        refused = machine.call("create", "vanished")
        assert refused.returncode == 1 and "is its file system mounted" in refused.stderr, refused.stderr
        assert os.listdir(machine.repository) == []
        # Nor does the catalogue forget what is only away.
        machine.agent.stop()
        machine.agent.start(machine.bus)
        holdpoint.wait_until(lambda: [j for j in machine.json("jobs")["jobs"] if j["type"] == "reconcile"
                                      and j["state"] == "finished"], "the reconcile")
        assert first in [b["backup_id"] for b in machine.json("list", "--limit", 500)["backups"]]
        os.rmdir(machine.repository)
    finally:
        os.rename(machine.repository + ".away", machine.repository)
    assert site.create("vanished")["status"] == "completed"
    # Another path is another repository, begun without a question.
    machine.write_config()
    with open(os.path.join(machine.etc, "holdpoint.conf"), "w") as f:
        f.write("[Repository]\nPath=%s-2\n" % machine.repository)
    machine.reload()
    assert site.create("vanished")["status"] == "completed"
    machine.write_config()
    machine.reload()
    assert site.create("vanished")["status"] == "completed"


def test_canceled(site):
    path = site.fs.subvolume("canceled")
    write(os.path.join(path, "f"), os.urandom(3 << 20))
    site.service("canceled", path)
    before = site.images(), site.packs(), site.records()
    for step in ("scan", "before-hold", "held", "point-taken", "sealed", "walk", "stored"):
        with site.at_step(step, "canceled") as run:
            assert run.job()["cancelable"] is True
            site.machine.cli("cancel", run.job()["id"])
        job = run.job()
        assert (job["result"], job["error_name"].rpartition(".")[2]) == ("canceled", "Canceled"), (step, job)
        assert run.backup["status"] == "failed"
        assert (site.images(), site.packs(), site.records()) == before, step
    with site.at_step("packs-durable", "canceled") as run:
        assert run.job()["cancelable"] is False
        site.machine.cli("cancel", run.job()["id"], exit_code=6)
    assert run.job()["result"] == "done" and run.backup["status"] == "completed"


@contextlib.contextmanager
def locked(*path):
    fd = os.open(os.path.join(*path), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def job_of(machine, number):
    return next(j for j in machine.json("jobs")["jobs"] if j["id"] == number)


def test_canceled_while_it_waits(site):
    """For a lock that somebody else holds: of a service, of the writers, of those who read packs."""
    m = site.machine
    site.service("waiting", site.fs.subvolume("waiting"))
    backup = site.create("waiting")["backup_id"]
    before = site.images(), site.packs(), site.records()
    for lock, *verb in (((m.worker_state, "locks", "waiting"), "create", "waiting"),
                        ((m.repository, "backups"), "create", "waiting"),
                        ((m.repository, "packs"), "create", "waiting"),
                        ((m.repository, "backups"), "delete", backup, "--yes"),
                        ((m.repository, "backups"), "prune", "--yes"),
                        ((m.repository, "packs"), "verify", backup)):
        with locked(*lock):
            number = m.json(*verb, "--no-wait")["job"]
            holdpoint.wait_until(lambda: job_of(m, number)["state"] == "running" and m.workers.pids(), "its start")
            m.cli("cancel", str(number))
            holdpoint.wait_until(lambda: job_of(m, number)["state"] == "finished", "its end")  # the agent has jobs of its own
        job = job_of(m, number)
        assert (job["result"], job["error_name"].rpartition(".")[2]) == ("canceled", "Canceled"), (lock, verb, job)
        assert (site.images(), site.packs(), site.records()) == before, verb
    assert m.json("delete", backup, "--yes")["result"] == "done"


def test_a_full_repository(install):
    with holdpoint.LoopFs("ext4", 64) as small:
        with sites.open_site(install, repository=os.path.join(small.path, "repository")) as site:
            path = site.fs.subvolume("data")
            write(os.path.join(path, "small"), os.urandom(1 << 20))
            site.service("app", path)
            first = site.create("app")
            write(os.path.join(path, "large"), os.urandom(80 << 20))
            for _ in range(2):
                said = site.refused("app")
                assert "NoSpace" in said, said
            site.machine.cli("verify", first["backup_id"], "--depth", "data")
            os.unlink(os.path.join(path, "large"))
            again = site.create("app")
            assert again["files"] == first["files"]
            site.machine.cli("verify", again["backup_id"], "--depth", "data")
            assert_same(site, again["backup_id"], "app", path)


def hot(site, ids):
    """Of each backup, whether it says that it has a hot copy."""
    backups = {b["backup_id"]: b["copies"] for b in site.machine.json("list", "--limit", "500")["backups"]}
    return ["hot" in backups[i] for i in ids]


def on_disk(site, ids):
    return [sum(n.startswith("hot." + i) for n in site.images()) for i in ids]


def test_the_newest_three_hot_copies(site):
    for name in ("a", "b"):
        site.service("three-" + name, site.fs.subvolume("three", name))
    ids = [site.create(what)["backup_id"] for what in ("full", "full", "three-a", "three-a", "full")]
    # b has three, all in full backups; a has the newest three, so the two oldest lack its image.
    assert on_disk(site, ids) == [1, 1, 1, 1, 2]
    assert hot(site, ids) == [False, False, True, True, True]
    ids.append(site.create("full")["backup_id"])
    assert on_disk(site, ids) == [0, 1, 0, 1, 2, 2]
    assert hot(site, ids) == [False, False, False, True, True, True]


def test_a_killed_run_costs_no_hot_copy(site):
    site.service("costs", site.fs.subvolume("costs"))
    ids = [site.create("costs")["backup_id"] for _ in range(3)]
    site.machine.workers.restart("backup", HOLDPOINT_STEP="before-record=kill")
    site.machine.cli("create", "costs", exit_code=1)
    site.machine.workers.restart("backup")
    ids.append(site.create("costs")["backup_id"])
    assert hot(site, ids) == [False, True, True, True]
    assert on_disk(site, ids) == [0, 1, 1, 1] and len(site.images()) == 3 + images_of_others(site, ids)


def images_of_others(site, ids):
    return len([n for n in site.images() if n[4:40] not in ids and n[4:40] in site.records()])


# --- an agent that lies --------------------------------------------------------------------------------


def ask(site, **members):
    """One request to a backup worker, past the agent. Returns (result, name of its error)."""
    request = dict(type="request", job=1, verb="create", backup_name="n", description="", created_by="uid:0",
                   schedule="", include_files=True, pinned=False, level=6)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(30)
        s.connect(os.path.join(site.machine.workers_directory, "backup.socket"))
        s.send(json.dumps(dict(request, **members)).encode())
        while True:
            answer = json.loads(s.recv(1 << 17))
            if answer["type"] == "result":
                return answer["result"], answer.get("error", {}).get("name")


def test_what_a_worker_does_not_do(site):
    path = site.fs.subvolume("liar")
    write(os.path.join(path, "f"), b"f")
    site.service("liar", path)
    backup = site.create("liar", "--pinned")
    other = "11111111-2222-4333-8444-555555555555"
    images, records = site.images(), site.records()
    lies = dict(backup_id=other, backup_type="liar", services=["liar"])
    assert ask(site, **dict(lies, backup_id=backup["backup_id"])) == ("failed", "InvalidArgument")
    assert ask(site, **dict(lies, backup_id="../../etc/passwd")) == ("failed", "InvalidArgument")
    assert ask(site, **dict(lies, services=["../liar"])) == ("failed", "NoSuchService")
    assert ask(site, **dict(lies, services=["liar", "liar"])) == ("failed", "InvalidArgument")
    assert ask(site, **dict(lies, services=[])) == ("failed", "NoSuchService")
    assert ask(site, **dict(lies, level=99)) == ("failed", "InvalidArgument")
    assert ask(site, **dict(lies, verb="restore")) == ("failed", "InvalidArgument")
    assert (site.images(), site.records()) == (images, records)
    assert site.machine.json("show", backup["backup_id"])["pinned"] is True
    assert os.path.exists(os.path.join(site.machine.repository, "pins", backup["backup_id"]))
    assert_same(site, backup["backup_id"], "liar", path)
