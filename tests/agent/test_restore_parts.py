"""Restores of parts: named paths inside a live tree and aside, databases alone, keys that come with the request.

Workers are asked directly: what is tried here is theirs alone. Live trees are compared as a whole, so that what was
not named is seen to stay.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import threading

import pytest

import holdpoint
import trees
import workerclient

OWNER = 34
SIDES = ("-wal", "-shm", "-journal")


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def make_database(path, journal, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=" + journal)
        db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x TEXT)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (x) VALUES (?)", [("x" * 100,)] * rows)
        db.execute("COMMIT")
    os.chown(path, OWNER, OWNER)


def leave_a_log(path, rows):
    """Commits that only the write-ahead log has, as an application that was killed leaves them."""
    script = ("import os, sqlite3, sys\n"
              "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
              "db.execute('PRAGMA wal_autocheckpoint=0')\n"
              "db.executemany('INSERT INTO t (x) VALUES (?)', [('y' * 100,)] * int(sys.argv[2]))\n"
              "os.kill(os.getpid(), 9)\n")
    subprocess.run(["python3", "-c", script, path, str(rows)], check=False)
    assert os.path.getsize(path + "-wal") > 0
    for side in ("-wal", "-shm"):
        os.chown(path + side, OWNER, OWNER)


def rows(path):
    """Counted in a copy, with what stands beside it: looking must not fold the log in."""
    copy = path + ".looked-at"
    for side in ("", *SIDES[::2]):
        if os.path.exists(path + side):
            shutil.copy(path + side, copy + side)
    try:
        with contextlib.closing(sqlite3.connect(copy)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return db.execute("SELECT count(*) FROM t").fetchone()[0]
    finally:
        for side in ("", *SIDES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(copy + side)


def sides(path):
    return [s for s in SIDES if os.path.exists(path + s)]


class Site:
    """A service of a subvolume (or directory) and a file that is a database itself."""

    def __init__(self, fs, machine, kind):
        self.fs, self.machine, self.kind, self.hot = fs, machine, kind, kind == "btrfs"
        self.data = fs.directory("srv", "data")
        self.solo = os.path.join(fs.path, "srv", "solo.db")
        self.paths = (self.data, self.solo)
        self.db = os.path.join(self.data, "db", "app.db")
        self.fill()
        machine.write_service("site", self.paths, Exclude=["uploads/cache/**", "**/*.tmp"],
                              Snapshot="auto" if self.hot else "none")
        machine.start()
        self.backup = machine.json("create", "site")["backup_id"]

    def fill(self):
        for i in range(6):
            write(os.path.join(self.data, "uploads", "f%d" % i), "good %d" % i)
        write(os.path.join(self.data, "uploads", "deep", "er", "x"), "deep")
        write(os.path.join(self.data, "uploads", "cache", "c"), "first")
        write(os.path.join(self.data, "config", "app.ini"), "good")
        os.makedirs(os.path.join(self.data, "links"), exist_ok=True)
        os.link(os.path.join(self.data, "uploads", "f0"), os.path.join(self.data, "links", "zero"))
        os.symlink("../uploads/f0", os.path.join(self.data, "links", "symbolic"))
        write(os.path.join(self.data, b"odd \xff".decode("utf-8", "surrogateescape")), "odd")
        make_database(self.db, "wal", 300)
        make_database(self.solo, "delete", 200)
        for path in (self.db, self.solo):
            os.chown(os.path.dirname(path), OWNER, OWNER)

    def damage(self):
        for i in range(6):
            write(os.path.join(self.data, "uploads", "f%d" % i), "damaged %d" % i)
        write(os.path.join(self.data, "uploads", "new"), "made since")
        write(os.path.join(self.data, "uploads", "cache", "c"), "newer")
        write(os.path.join(self.data, "uploads", "deep", "work.tmp"), "in work")
        write(os.path.join(self.data, "config", "app.ini"), "damaged")

    def state(self):
        """Everything that lives, but times of directories: those change with each exchange in them."""
        found = {}
        for top in self.paths:
            for path, d in trees.describe(top).items():
                if b".holdpoint" not in path:
                    found[os.fsencode(top), path] = {k: v for k, v in d.items() if k != "mtime" or d["type"] != "d"}
        return found

    def changed(self, before):
        """Relative paths of what differs from an earlier state()."""
        now = self.state()
        return sorted({os.fsdecode(p) for t, p in before.keys() | now.keys() if before.get((t, p)) != now.get((t, p))})

    def areas(self):
        """Names of what is staged or kept, in all areas."""
        found = []
        for top in (self.fs.path, self.data):
            with contextlib.suppress(FileNotFoundError):
                found += [n for n in os.listdir(os.path.join(top, ".holdpoint")) if not n.startswith("hot.")]
        return sorted(found)

    def restore(self, *paths, backup=None, **parameters):
        if paths:
            parameters["paths"] = list(paths)
        return workerclient.restore(self.machine, backup or self.backup, **parameters)

    def done(self, *paths, **parameters):
        answer = self.restore(*paths, **parameters)
        assert answer.result == "done", "%s: %s" % (answer.text[:900], answer.summary)
        return answer.summary

    def refused(self, name, *paths, **parameters):
        before = self.state()
        answer = self.restore(*paths, **parameters)
        assert (answer.result, answer.name) == ("failed", name), answer
        assert self.changed(before) == []
        assert self.areas() == []
        return answer.text

    def verb(self, verb, restore_id):
        answer = workerclient.ask(self.machine, verb, restore_id=restore_id)
        assert answer.result == "done", "%s: %s" % (answer.text[:900], answer.summary)
        return answer.summary

    def rollback(self, summary):
        return self.verb("rollback", summary["restore_id"])

    def confirm(self, summary):
        self.verb("confirm", summary["restore_id"])
        assert self.areas() == []


@contextlib.contextmanager
def make_site(install, kind):
    with holdpoint.LoopFs(kind, 1024) as fs, holdpoint.Machine(install) as machine:
        yield Site(fs, machine, kind)


@pytest.fixture(scope="module", params=["btrfs", "ext4", "xfs"])
def site(request, install):
    with make_site(install, request.param) as s:
        yield s


@pytest.fixture(autouse=True)
def damaged(site):
    site.damage()
    assert site.areas() == []


# ---- named paths in place ----

@pytest.mark.parametrize("source", ["hot", "local"])
def test_one_file(site, source):
    if source == "hot" and not site.hot:
        assert "no hot copy" in site.refused("NotRestorable", "uploads/f1", **{"from": "hot"})
        return
    before = site.state()
    summary = site.done("uploads/f1", **{"from": source})
    assert (summary["method"], summary["from"], summary["files"]) == ("files", source, 1)
    assert site.changed(before) == ["uploads/f1"]
    assert read(site.data, "uploads", "f1") == b"good 1"
    after = site.state()
    site.rollback(summary)
    assert site.changed(before) == []
    site.rollback(summary)
    assert site.changed(after) == []
    site.confirm(summary)
    assert site.changed(after) == []


def test_several_kinds_at_once(site):
    """A file, a directory with something left out in it, and a file that is gone: one intent, one rollback."""
    os.unlink(os.path.join(site.data, "config", "app.ini"))
    before = site.state()
    summary = site.done("config/app.ini", site.data + "/uploads", "odd \\xFF")
    assert summary["method"] == "files"
    assert read(site.data, "config", "app.ini") == b"good"
    assert [read(site.data, "uploads", "f%d" % i) for i in range(6)] == [b"good %d" % i for i in range(6)]
    assert not os.path.exists(os.path.join(site.data, "uploads", "new"))
    assert read(site.data, "uploads", "cache", "c") == b"newer"
    assert read(site.data, "uploads", "deep", "work.tmp") == b"in work"
    assert read(site.data, "uploads", "deep", "er", "x") == b"deep"
    after = site.state()
    site.rollback(summary)
    assert site.changed(before) == []
    assert not os.path.exists(os.path.join(site.data, "config", "app.ini"))
    site.rollback(summary)
    assert site.changed(after) == []
    site.confirm(summary)


def test_a_file_that_is_gone_with_its_directory(site):
    away = os.path.join(site.data, "config.away")
    os.rename(os.path.join(site.data, "config"), away)
    try:
        text = site.refused("NotRestorable", "config/app.ini")
        assert os.path.join(site.data, "config") in text
        summary = site.done("config")
        assert read(site.data, "config", "app.ini") == b"good"
        site.rollback(summary)
        assert not os.path.exists(os.path.join(site.data, "config"))
        site.confirm(summary)
    finally:
        os.rename(away, os.path.join(site.data, "config"))


def test_the_directory_of_a_path_goes_later(site):
    """A kept file is found by its area, whatever became of the directory that it came from."""
    summary = site.done("uploads/deep/er/x")
    shutil.rmtree(os.path.join(site.data, "uploads", "deep"))
    assert workerclient.ask(site.machine, "rollback", restore_id=summary["restore_id"]).result == "failed"
    site.confirm(summary)
    site.confirm(site.done("uploads/deep"))


def test_a_hard_link_by_itself(site):
    """The other name keeps what it has."""
    os.unlink(os.path.join(site.data, "links", "zero"))
    os.link(os.path.join(site.data, "uploads", "f0"), os.path.join(site.data, "links", "zero"))
    summary = site.done("links/zero", "uploads/f2")
    assert read(site.data, "links", "zero") == b"good 0"
    assert read(site.data, "uploads", "f0") == b"damaged 0"
    site.rollback(summary)
    assert os.path.samefile(os.path.join(site.data, "links", "zero"), os.path.join(site.data, "uploads", "f0"))
    site.confirm(summary)


def test_a_path_of_the_service_by_name(site):
    """That is a tree like in a whole restore; the other Path= stays."""
    before = site.state()
    summary = site.done(site.data)
    assert summary["method"] == ("subvolume" if site.hot else "directory")
    assert read(site.data, "uploads", "cache", "c") == b"newer"
    site.rollback(summary)
    assert site.changed(before) == []
    site.confirm(summary)


def test_what_is_refused(site):
    assert "not hold" in site.refused("SourceMissing", "uploads/nothing")
    assert "not hold" in site.refused("SourceMissing", "/etc/passwd")
    assert "not hold" in site.refused("SourceMissing", "uploads/cache/c")
    assert "neither file nor directory" in site.refused("NotRestorable", "links/symbolic")
    assert "within" in site.refused("InvalidArgument", "uploads/f1", "uploads")
    assert "within" in site.refused("InvalidArgument", "uploads/f1", site.data + "/uploads/f1")
    for bad in ("", "/", "../x", "uploads/../config", "uploads//f1", "uploads/", "\\x0", "."):
        assert "plain path" in (text := site.refused("InvalidArgument", bad)) or "no path" in text, bad
    answer = workerclient.restore(site.machine, site.backup, paths=["x%d" % i for i in range(1001)])
    assert answer.name == "InvalidArgument", answer
    assert workerclient.restore(site.machine, site.backup, paths="uploads").name == "InvalidArgument"
    assert "remote" in site.refused("NotRestorable", "uploads/f1", **{"from": "remote"})
    os.unlink(os.path.join(site.data, "uploads", "f3"))
    os.symlink("/etc/passwd", os.path.join(site.data, "uploads", "f3"))
    try:
        site.refused("NotRestorable", "uploads/f3")
        assert os.readlink(os.path.join(site.data, "uploads", "f3")) == "/etc/passwd"
    finally:
        os.unlink(os.path.join(site.data, "uploads", "f3"))
    moved = os.path.join(site.data, "uploads.moved")
    os.rename(os.path.join(site.data, "uploads"), moved)
    os.symlink(moved, os.path.join(site.data, "uploads"))
    try:
        site.refused("NotRestorable", "uploads/f1")
    finally:
        os.unlink(os.path.join(site.data, "uploads"))
        os.rename(moved, os.path.join(site.data, "uploads"))


def test_a_named_file_in_use(site):
    """Only who holds what is exchanged is in the way."""
    other = open(os.path.join(site.data, "uploads", "f4"), "rb")
    with other:
        holder = subprocess.Popen(["tail", "-f", os.path.join(site.data, "uploads", "f1")], stdout=subprocess.DEVNULL)
        try:
            holdpoint.wait_until(lambda: any(
                os.path.realpath("/proc/%d/fd/%s" % (holder.pid, n)).endswith("/f1")
                for n in os.listdir("/proc/%d/fd" % holder.pid)), "the holder's file")
            assert str(holder.pid) in site.refused("TargetInUse", "uploads/f1")
            site.confirm(site.done("uploads/f2"))
        finally:
            holder.kill()
            holder.wait()


def test_under_a_later_restore_of_the_whole(site):
    """On btrfs the kept file lies in the tree that the second restore replaced: it goes with that one, not before."""
    first = site.done("uploads/f1")
    second = site.done()
    assert site.machine.worker_recover().returncode == 0
    answer = workerclient.ask(site.machine, "confirm", restore_id=first["restore_id"])
    if site.hot:
        assert (answer.result, second["restore_id"] in answer.text) == ("failed", True), answer
        site.rollback(second)
        site.rollback(first)
        assert read(site.data, "uploads", "f1") == b"damaged 1"
        site.rollback(first)
        site.rollback(second)
        site.verb("confirm", second["restore_id"])
        site.confirm(first)
    else:
        assert answer.result == "done", "%s: %s" % (answer.text[:900], answer.summary)
        site.confirm(second)
    if site.hot:
        assert not os.path.exists(os.path.join(site.data, ".holdpoint"))


# ---- databases ----

def test_a_database_takes_its_side_files_along(site):
    leave_a_log(site.db, 50)
    live = rows(site.db)
    before = site.state()
    assert sides(site.db) == ["-wal", "-shm"]
    summary = site.done("db/app.db")
    assert sides(site.db) == []
    assert rows(site.db) == 300
    # The restored one is used, and leaves a log of its own: that goes and comes with it.
    leave_a_log(site.db, 7)
    assert rows(site.db) == 307
    site.rollback(summary)
    assert site.changed(before) == []
    assert rows(site.db) == live
    site.rollback(summary)
    assert rows(site.db) == 307
    site.confirm(summary)
    assert "app.db" in site.refused("SourceMissing", "db/app.db-wal")
    for side in SIDES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(site.db + side)


def test_a_path_that_is_a_database(site):
    """Its journal stands outside of every Path=, and still belongs to it."""
    write(site.solo + "-journal", b"left over, and no journal of the restored one")
    summary = site.done()
    assert sides(site.solo) == []
    assert rows(site.solo) == 200
    site.rollback(summary)
    assert sides(site.solo) == ["-journal"]
    site.confirm(summary)
    os.unlink(site.solo + "-journal")


@pytest.mark.parametrize("source", ["hot", "local"])
def test_a_backup_of_databases_alone(site, source):
    """Its databases change places one by one, and nothing else does."""
    if source == "hot" and not site.hot:
        return
    backup = site.machine.json("create", "site", "--no-include-files")["backup_id"]
    for path in (site.db, site.solo):
        make_database(path, "wal" if path == site.db else "delete", 11)
    leave_a_log(site.db, 3)
    os.chmod(site.solo, 0o600)
    before = site.state()
    summary = site.done(backup=backup, **{"from": source})
    assert (summary["method"], summary["from"], summary["files"]) == ("files", source, 2)
    assert (rows(site.db), rows(site.solo), sides(site.db)) == (300, 200, [])
    assert set(site.changed(before)) == {"db/app.db", "db/app.db-wal", "db/app.db-shm", "."}
    row = site.machine.worker_recover()
    assert row.returncode == 0
    site.rollback(summary)
    assert site.changed(before) == []
    site.rollback(summary)
    assert (rows(site.db), rows(site.solo), sides(site.db)) == (300, 200, [])
    site.confirm(summary)
    assert "databases only" in site.refused("NotRestorable", "db", backup=backup)
    site.confirm(site.done("db/app.db", backup=backup))
    os.rename(os.path.dirname(site.db), os.path.dirname(site.db) + ".away")
    assert os.path.dirname(site.db) in site.refused("NotRestorable", backup=backup)
    os.rename(os.path.dirname(site.db) + ".away", os.path.dirname(site.db))


def test_a_partial_backup_of_databases(site):
    """One that could not be stored is not touched, and that is said."""
    broken = os.path.join(site.data, "db", "broken.db")
    make_database(broken, "delete", 3000)
    with open(broken, "r+b") as f:
        f.seek(8192)
        f.write(os.urandom(4096 * 6))
    made = site.machine.call("create", "site", "--no-include-files", "--json")
    assert made.returncode == 3, made.stdout + made.stderr
    backup = json.loads(made.stdout)["backup_id"]
    assert "allow-partial" in site.refused("NotRestorable", backup=backup)
    answer = site.restore(backup=backup, allow_partial=True)
    assert (answer.result, answer.name, answer.summary["lacking_paths"]) == ("partial", "SourceMissing", [broken]), answer
    assert "1 entries" in answer.text and broken in answer.text
    assert rows(site.db) == 300
    site.confirm(answer.summary)
    answer = site.restore("db/app.db", backup=backup, allow_partial=True)  # nothing of it is in doubt
    assert (answer.result, answer.summary["lacking"]) == ("done", 0), answer
    site.confirm(answer.summary)
    os.unlink(broken)


# ---- aside ----

@pytest.fixture
def into(site):
    path = os.path.join(site.fs.path, "out")
    os.mkdir(path)
    yield path
    shutil.rmtree(path)


def test_one_file_aside(site, into):
    before = site.state()
    summary = site.done("uploads/f1", into=into)
    assert (summary["method"], summary["files"]) == ("aside", 1)
    assert os.listdir(into) == ["f1"] and read(into, "f1") == b"good 1"
    answer = site.restore("uploads/f1", into=into)
    assert (answer.name, "f1" in answer.text) == ("TargetInUse", True), answer
    assert os.listdir(into) == ["f1"] and read(into, "f1") == b"good 1"
    site.done("links/symbolic", into=into)
    assert os.readlink(os.path.join(into, "symbolic")) == "../uploads/f0"
    site.done("links/zero", into=into)
    assert read(into, "zero") == b"good 0"
    site.done("db/app.db", into=into)
    assert rows(os.path.join(into, "app.db")) == 300
    assert sorted(os.listdir(into)) == ["app.db", "f1", "symbolic", "zero"]
    assert site.changed(before) == [] and site.areas() == []


def test_several_paths_aside(site, into):
    """A link may come before the file that it is a name of, in another of the paths."""
    site.done("links", "uploads", "config/app.ini", into=into)
    top = os.path.join(into, "site") + site.data
    assert sorted(os.listdir(top)) == ["config", "links", "uploads"]
    assert sorted(os.listdir(os.path.join(top, "uploads"))) == ["deep", "f0", "f1", "f2", "f3", "f4", "f5"] or \
        sorted(os.listdir(os.path.join(top, "uploads"))) == ["cache", "deep", "f0", "f1", "f2", "f3", "f4", "f5"]
    assert read(top, "config", "app.ini") == b"good"
    assert os.path.samefile(os.path.join(top, "links", "zero"), os.path.join(top, "uploads", "f0"))


@pytest.mark.parametrize("source", ["hot", "local"])
def test_a_service_of_several_paths_aside(site, into, source):
    """The database that is a Path= itself lies in another volume than the subvolume."""
    if source == "hot" and not site.hot:
        return
    backup = site.machine.json("create", "site")["backup_id"]
    summary = site.done(into=into, backup=backup, **{"from": source})
    assert summary["from"] == source
    assert rows(os.path.join(into, "site") + site.solo) == rows(site.solo)
    assert rows(os.path.join(into, "site") + site.db) == rows(site.db)
    assert read(os.path.join(into, "site") + site.data, "uploads", "f5") == b"damaged 5"


# ---- keys ----

def sealed(data):
    fd = os.memfd_create("key", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def test_a_key_that_comes_with_the_request(site, into):
    path = os.path.join(site.machine.etc, "keys", "private.pem")
    pem = read(path)
    os.rename(path, path + ".away")
    try:
        site.refused("KeyMissing", "uploads/f1", **{"from": "local"})
        fd = sealed(pem)
        site.confirm(site.done("uploads/f1", fds=[fd], key=True, **{"from": "local"}))
        os.close(fd)
        reader, writer = os.pipe()
        sender = threading.Thread(target=lambda: (os.write(writer, pem), os.close(writer)))
        sender.start()
        site.done("uploads/f2", fds=[reader], key=True, into=into, **{"from": "local"})
        sender.join()
        os.close(reader)
        assert read(into, "f2") == b"good 2"
        other = subprocess.run(["openssl", "genpkey", "-algorithm", "X25519"], check=True, capture_output=True).stdout
        for data, name in ((b"no key at all\n", "KeyMissing"), (b"", "InvalidArgument"), (bytes(70000), "InvalidArgument"),
                           (other, "KeyMissing")):
            fd = sealed(data)
            assert "key that was given" in site.refused(name, "uploads/f1", fds=[fd], key=True, **{"from": "local"})
            os.close(fd)
        assert site.restore("uploads/f1", fds=[], key=True).name == "InvalidArgument"
    finally:
        os.rename(path + ".away", path)


# ---- plans ----

def intents(site):
    path = os.path.join(site.machine.worker_state, "intents")
    return sorted((n, read(path, n)) for n in os.listdir(path)) if os.path.isdir(path) else []


def plan(site, *paths, backup=None, **parameters):
    """What would be; nothing of it may have happened."""
    if paths:
        parameters["paths"] = list(paths)
    before = site.state(), site.areas(), intents(site), os.path.exists(os.path.join(site.data, ".holdpoint"))
    answer = workerclient.plan(site.machine, backup or site.backup, **parameters)
    assert (site.state(), site.areas(), intents(site), os.path.exists(os.path.join(site.data, ".holdpoint"))) == before
    assert answer.result == "done", answer
    assert answer.summary["lost"] == []
    return answer.summary


def test_a_plan_is_what_a_restore_does(site):
    backup = site.machine.json("create", "site")["backup_id"]
    for paths in ((), ("uploads",), ("config/app.ini", "db/app.db"), (site.data,)):
        p = plan(site, *paths, backup=backup)
        assert (p["possible"], p["reason"], p["error"], p["holders"], p["units"]) == (True, "", "", [], []), p
        carried = {(): 2, ("uploads",): 2, (site.data,): 2}.get(paths, 0)
        by = "" if not carried else "reflink" if site.hot and paths != ("uploads",) else "rename"
        assert (p["carried"], p["carried_by"]) == (carried, by), p
        assert p["carried_bytes"] == (len("newer") + len("in work") if carried else 0)
        assert p["copy"] == ("hot" if site.hot else "local")
        assert 0 < p["free_bytes"] < 1 << 30
        summary = site.done(*paths, backup=backup)
        assert p["method"] == summary["method"]
        if p["method"] != "subvolume":
            assert (p["bytes"], p["files"]) == (summary["bytes"], summary["files"])
        assert sum(row["bytes"] for row in p["paths"]) == p["bytes"]
        site.confirm(summary)
        site.damage()


def test_a_plan_says_why_not(site):
    def why(error, word, *paths, **parameters):
        p = plan(site, *paths, **parameters)
        assert (p["possible"], p["error"]) == (False, error) and word in p["reason"], p
        return p

    why("SourceMissing", "nothing", "uploads/nothing")
    why("NotRestorable", "remote", **{"from": "remote"})
    why("NotRestorable", "neither file", "links/symbolic")
    if not site.hot:
        why("NotRestorable", "hot", **{"from": "hot"})
    key = os.path.join(site.machine.etc, "keys", "private.pem")
    pem = read(key)
    os.rename(key, key + ".away")
    try:
        why("KeyMissing", "key", "uploads/f1", **{"from": "local"})
        fd = sealed(pem)
        answer = workerclient.ask(site.machine, "plan", fds=[fd], key=True, backup_id=site.backup, restore_type="full",
                                  **{"from": "local"})
        assert answer.summary["possible"], answer
        os.close(fd)
    finally:
        os.rename(key + ".away", key)
    with subprocess.Popen(["sleep", "60"], cwd=os.path.join(site.data, "uploads", "deep")) as holder:
        p = why("TargetInUse", str(holder.pid), "uploads")
        assert len(p["holders"]) == 1 and p["method"] == "files"
        holder.kill()
    conf = os.path.join(site.machine.etc, "services.d", "site.conf")
    before = read(conf)
    for text, word in ((before + b"Unit=site-app.service\n", "site-app.service"),
                       (before.replace(b"Path=%s\n" % os.fsencode(site.solo), b""), site.solo)):
        write(conf, text)
        p = why("NotRestorable", word)
        assert p["units"] == (["site-app.service"] if b"Unit=" in text else [])
    write(conf, before)
    unknown = "01234567-89ab-4cde-8f01-23456789abcd"
    assert workerclient.plan(site.machine, unknown).name == "NoSuchBackup"
    assert workerclient.plan(site.machine, site.backup, restore_type="nobody").name == "NoSuchService"
    assert workerclient.plan(site.machine, site.backup, paths=["../x"]).name == "InvalidArgument"


# ---- verification by restoring ----

def prove(site, backup, **parameters):
    return workerclient.Job(site.machine, "verify", backup_id=backup, depth="restore", **parameters)


def proved(site):
    """The directory in which it is done."""
    return os.path.join(site.fs.path, ".holdpoint", next(n for n in site.areas() if n.startswith("verify.")))


def test_a_verification_restores_everything(site):
    backup = site.machine.json("create", "site")["backup_id"]
    before = site.state()
    answer = prove(site, backup).answer()
    assert answer.result == "done", answer
    assert (answer.summary["databases"], answer.summary["damaged"]) == (2, 0), answer
    assert answer.summary["files"] == site.machine.json("show", backup)["files"]
    row = answer.of("backup")[-1]["backup"]
    assert (row["verified_depth"], row["verified_result"]) == ("restore", "sound")
    assert site.machine.json("verify", backup, "--depth", "restore")["result"] == "done"
    assert site.changed(before) == [] and site.areas() == []


@pytest.mark.parametrize("how", ["content", "mode", "extra", "missing"])
def test_a_verification_sees_a_difference(site, how):
    """What was restored is changed behind its back, between the first entry that is compared and the rest."""
    site.machine.workers.restart("restore", HOLDPOINT_STEP="compared@1=stop")
    try:
        job = prove(site, site.backup)
        pid = job.stopped()
        top = os.path.join(proved(site), "site") + site.data
        target = os.path.join(top, "uploads", "f3")
        if how == "content":
            times = os.stat(target)
            write(target, "gooD 3")
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        elif how == "mode":
            os.chmod(target, 0o4755)
        elif how == "missing":
            os.unlink(target)
        else:
            write(os.path.join(top, "uploads", "f3a"), "more")
        job.go_on(pid)
        answer = job.answer()
        assert (answer.result, answer.name, answer.summary["damaged"]) == ("failed", "IntegrityFailure", 1), answer
        assert "uploads" in answer.text
        assert answer.of("backup")[-1]["backup"]["verified_result"] == "damaged"
    finally:
        site.machine.workers.restart("restore")
    assert site.areas() == []


@pytest.mark.parametrize("how", ["cancel", "kill"])
def test_a_verification_that_does_not_end(site, how):
    site.machine.workers.restart("restore", HOLDPOINT_STEP="compared@2=" + ("stop" if how == "cancel" else "kill"))
    try:
        job = prove(site, site.backup)
        if how == "cancel":
            pid = job.stopped()
            job.cancel()
            job.go_on(pid)
            assert job.answer().result == "canceled"
        else:
            assert job.answer().lost
            assert os.path.isdir(proved(site))
    finally:
        site.machine.workers.restart("restore")
    if how == "kill":
        assert workerclient.ask(site.machine, "recover").result == "done"
    assert site.areas() == []
