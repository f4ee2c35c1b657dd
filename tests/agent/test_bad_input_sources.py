"""Sources that are not as they should be: each has its named error, nothing is lost, and no service costs another its backup."""

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess

import extremes
import holdpoint
import memory
import pytest
import read_repo
import sites
from sites import sql

OWNER = 34


@pytest.fixture(scope="module")
def shared(install):
    with sites.open_site(install) as site:
        yield site


@pytest.fixture
def site(shared):
    yield shared
    shared.forget()


def write(path, data=b"content"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def make_database(path, rows=50):
    sql(path, "CREATE TABLE t(n INTEGER PRIMARY KEY, d BLOB);"
              "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < %d)"
              " INSERT INTO t SELECT i, randomblob(1000) FROM c" % rows)


def metadata(backup):
    return json.loads(backup["metadata"])


def restored(site, backup, service, path):
    with site.extracted(backup["backup_id"]) as output:
        with open(os.path.join(output, service) + path, "rb") as f:
            return f.read()


# --- one service of several ------------------------------------------------------------------------------

class Bad:
    """Ways in which a service's user, or whoever can write where it lies, can break its backup and nothing else:
    each is made, and mended again."""

    def __init__(self, site):
        site.fs.subvolume("bad")
        self.site, self.path = site, site.fs.subvolume("bad", "data")
        self.parent = os.path.dirname(self.path)
        write(os.path.join(self.path, "f"))
        make_database(os.path.join(self.path, "x.db"))

    @contextlib.contextmanager
    def missing(self):
        os.rename(self.path, self.path + ".away")
        try:
            yield "SourceMissing", self.path
        finally:
            os.rename(self.path + ".away", self.path)

    @contextlib.contextmanager
    def a_link(self):
        with self.missing():
            os.symlink(self.path + ".away", self.path)
            try:
                yield "SnapshotFailed", "symbolic link"
            finally:
                os.unlink(self.path)

    @contextlib.contextmanager
    def a_fifo(self):
        with self.missing():
            os.mkfifo(self.path)
            try:
                yield "SourceMissing", self.path
            finally:
                os.unlink(self.path)

    @contextlib.contextmanager
    def nested(self):
        inner = self.site.fs.subvolume("bad", "data", "in", "ner")
        write(os.path.join(inner, "precious"))
        try:
            yield "SnapshotFailed", inner + " is a nested subvolume"
        finally:
            holdpoint.run("btrfs", "-q", "subvolume", "delete", inner)

    @contextlib.contextmanager
    def an_area_of_its_own(self):
        """Where images would be kept there is something of somebody else."""
        area = os.path.join(self.parent, ".holdpoint")
        if os.path.isdir(area):
            os.rename(area, area + ".away")
        os.mkdir(area, 0o755)
        os.chown(area, OWNER, OWNER)
        try:
            yield "SnapshotFailed", area
        finally:
            os.rmdir(area)
            if os.path.isdir(area + ".away"):
                os.rename(area + ".away", area)

    @contextlib.contextmanager
    def a_swap_file(self):
        swap = os.path.join(self.path, "swap")
        extremes.write(swap)
        extremes.add_flags(swap, extremes.NOCOW)
        with open(swap, "r+b") as f:
            f.write(bytes(1 << 20))
        os.chmod(swap, 0o600)
        holdpoint.run("mkswap", swap)
        holdpoint.run("swapon", swap)
        try:
            yield "SnapshotFailed", "swap file"
        finally:
            holdpoint.run("swapoff", swap)
            os.unlink(swap)

    @contextlib.contextmanager
    def listed(self, make):
        """A database that the configuration names."""
        path = os.path.join(self.path, "listed.db")
        make(path)
        self.site.service("bad", self.path, Database=[path, os.path.join(self.path, "x.db")])
        try:
            yield "SourceMissing", path
        finally:
            self.site.service("bad", self.path)
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
            elif os.path.lexists(path):
                os.unlink(path)

    def listed_missing(self):
        return self.listed(lambda path: None)

    def listed_fifo(self):
        return self.listed(os.mkfifo)

    def listed_directory(self):
        return self.listed(os.mkdir)

    def listed_device(self):
        return self.listed(lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)))

    def listed_link(self):
        return self.listed(lambda path: os.symlink("x.db", path))


WAYS = ("missing", "a_link", "a_fifo", "nested", "an_area_of_its_own", "a_swap_file", "listed_missing", "listed_fifo",
        "listed_directory", "listed_device", "listed_link")


@pytest.fixture(scope="module")
def bad(shared):
    return Bad(shared)


@pytest.mark.parametrize("way", WAYS)
def test_one_service_of_several(site, bad, way):
    good = site.fs.path + "/good"
    write(good + "/f", way.encode())
    site.service("good", good)
    site.service("bad", bad.path)
    with getattr(bad, way)() as (name, said):
        refused = site.refused("bad")
        assert name in refused and said in refused, refused
        images = site.images()
        backup = site.create("full", exit_code=3)
        assert (backup["status"], backup["services"], metadata(backup)["refused"]) == ("partial", ["good"], ["bad"])
        [problem] = metadata(backup)["problems"]
        assert (problem["service"], problem["path"], problem["error"]["name"]) == ("bad", bad.path, name)
        assert "not in this backup" in problem["error"]["text"] and said in problem["error"]["text"]
        assert backup["error_name"].endswith("." + name)
        assert restored(site, backup, "good", good + "/f") == way.encode()
        assert len(set(site.images()) - set(images)) == 1
        listed = [b["backup_id"] for b in site.machine.json("list", "--service", "bad", "--limit", 500)["backups"]]
        assert backup["backup_id"] not in listed
        assert "Interrupted" not in site.machine.cli("show", backup["backup_id"]).stdout
    healed = site.create("full")
    assert (healed["status"], healed["services"]) == ("completed", ["bad", "good"])


def test_no_service_is_left(site):
    for name in ("one", "two"):
        site.service(name, os.path.join(site.fs.path, "gone-" + name))
    said = site.refused("full")
    assert "SourceMissing" in said and "gone-one" in said


def test_a_quota_that_is_exhausted(install):
    """The service has filled what it may use: no image of it can be made, but of the other."""
    with sites.open_site(install, size_mib=1024) as site:
        holdpoint.run("btrfs", "quota", "enable", site.fs.path)
        full, good = site.fs.subvolume("full-service"), site.fs.subvolume("good")
        holdpoint.run("btrfs", "quota", "rescan", "-w", site.fs.path)
        write(os.path.join(good, "f"))
        site.service("a-full", full)
        site.service("good", good)
        holdpoint.run("btrfs", "qgroup", "limit", "24M", full)
        with contextlib.suppress(OSError):
            for i in range(64):
                write(os.path.join(full, "%d" % i), os.urandom(1 << 20))
                os.sync()
        done = site.machine.call("create", "full", "--json")
        backup = json.loads(done.stdout)
        if done.returncode == 0:  # the kernel had the little that a snapshot takes
            assert backup["services"] == ["a-full", "good"]
        else:
            assert (done.returncode, backup["services"], backup["status"]) == (3, ["good"], "partial"), done.stdout
            assert "quota" in backup["metadata"]
        assert restored(site, backup, "good", good + "/f") == b"content"


def test_a_subvolume_that_comes_too_late(site):
    """Made after the look at the live tree: the image has an empty stub where it is, and that is said."""
    path = site.fs.subvolume("late")
    write(os.path.join(path, "f"))
    site.service("late", path)
    with site.at_step("before-hold", "late") as run:
        inner = site.fs.subvolume("late", "inner")
        write(os.path.join(inner, "precious"))
    assert run.backup["status"] == "partial"
    [problem] = metadata(run.backup)["problems"]
    assert problem["path"] == inner and "nested subvolume" in problem["error"]["text"]
    assert "nested subvolume" in site.refused("late")
    holdpoint.run("btrfs", "-q", "subvolume", "delete", inner)


# --- what cannot be read ---------------------------------------------------------------------------------

def damage_blocks(fs, marks):
    """Overwrites every copy of the marks in the image of an unmounted file system: its checksums fail then."""
    fs._unmount()
    found = {mark: 0 for mark in marks}
    with open(os.path.join(fs.base, "image"), "r+b") as image:
        at = 0
        while True:
            try:
                at = os.lseek(image.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(image.fileno(), at, os.SEEK_HOLE)
            while at < end:
                block = os.pread(image.fileno(), 1 << 20, at)
                for mark in marks:
                    where = block.find(mark)
                    if where >= 0:
                        os.pwrite(image.fileno(), b"damaged!", at + where)
                        found[mark] += 1
                at += len(block)
    fs._mount()
    assert all(found.values()), found


def test_blocks_that_cannot_be_read(install):
    """EIO from a file, and from a database: both are named, all else is there."""
    mark = b"a block that will be damaged, "
    with sites.open_site(install, size_mib=1024) as site:
        path = site.fs.subvolume("eio")
        for name in ("bad", "good", "also\nbad \xff"):
            write(os.path.join(path, name), (mark + name.encode() if name != "good" else b"fine") * 100000)
        database = os.path.join(path, "x.db")
        make_database(database, 400)
        sql(database, "INSERT INTO t SELECT 1000 + n, CAST(printf('%%.1000c%s', n) AS BLOB) FROM t" % "lost row of it")
        os.sync()
        site.service("eio", path)
        before = site.create("eio")
        damage_blocks(site.fs, [mark, b"lost row of it"])
        # Nothing changed: nothing is read but the database, whose verdict is asked for again.
        shutil.rmtree(os.path.join(site.machine.worker_state, "base"))
        backup = site.create("eio", exit_code=3)
        assert backup["status"] == "partial"
        problems = {p["path"]: p["error"] for p in metadata(backup)["problems"]}
        assert set(problems) == {os.path.join(path, "bad"), os.path.join(path, "also\\x0abad \xff"), database}
        assert {os.path.basename(p): e["name"] for p, e in problems.items()} == {
            "bad": "SourceMissing", "also\\x0abad \xff": "SourceMissing", "x.db": "IntegrityFailure"}
        assert "Input/output error" in problems[os.path.join(path, "bad")]["text"]
        assert restored(site, backup, "eio", path + "/good") == b"fine" * 100000
        with site.extracted(backup["backup_id"]) as output:
            assert not os.path.exists(os.path.join(output, "eio") + path + "/bad")
        assert restored(site, before, "eio", path + "/bad") == (mark + b"bad") * 100000
        assert site.machine.json("show", "latest")["backup_id"] == before["backup_id"]


# --- databases that are none -----------------------------------------------------------------------------

def test_what_is_named_like_a_database(site):
    path, outside = site.fs.subvolume("named"), os.path.join(site.fs.path, "outside.db")
    p = lambda name: os.path.join(path, name)  # noqa: E731
    make_database(outside)
    make_database(p("real.db"))
    before = open(outside, "rb").read()
    os.mkfifo(p("fifo.db"))
    os.mkdir(p("directory.db"))
    os.mknod(p("zero.db"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(p("loop.db"), stat.S_IFBLK | 0o600, os.makedev(7, 255))
    os.symlink(outside, p("out.db"))
    os.symlink("real.db", p("in.db"))
    os.symlink("/nowhere", p("dangling.db"))
    write(p("header.db"), b"SQLite format 3\0" + bytes(4096 - 16))
    write(p("garbage.db"), b"SQLite format 3\0" + os.urandom(8192 - 16))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(p("socket.db"))
    site.service("named", path)
    backup = site.create("named", exit_code=3)
    verdicts = {os.path.basename(d["path"]): d["check"] for d in backup["databases"]}
    assert verdicts["real.db"] == "ok" and set(verdicts) == {"real.db", "header.db", "garbage.db"}
    problems = {os.path.basename(p["path"]): p["error"] for p in metadata(backup)["problems"]}
    assert set(problems) == {n for n, verdict in verdicts.items() if verdict != "ok"}
    assert {error["name"] for error in problems.values()} == {"IntegrityFailure"}, problems
    assert all(len(error["text"]) > 10 for error in problems.values()), problems
    assert open(outside, "rb").read() == before
    with site.extracted(backup["backup_id"]) as output:
        copy = os.path.join(output, "named") + path
        # What is no database is kept as the file that it is.
        for name in ("header.db", "garbage.db"):
            assert open(os.path.join(copy, name), "rb").read() == open(p(name), "rb").read()
        assert sorted(os.listdir(copy)) == sorted(set(os.listdir(path)) - {"socket.db"})


@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm"])
@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket"])
def test_a_side_file_that_is_none(site, suffix, kind):
    """It leads nowhere, and nobody waits for it."""
    path = site.fs.subvolume("side", kind + suffix)
    database, victim = os.path.join(path, "x.db"), os.path.join(site.fs.path, "victim")
    make_database(database)
    write(victim, b"valuable" * 1000)
    side = database + suffix
    if kind == "link":
        os.symlink(victim, side)
    elif kind == "fifo":
        os.mkfifo(side)
    elif kind == "directory":
        os.mkdir(side)
    else:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(side)
    site.service("side", path)
    done = site.machine.call("create", "side", "--json", timeout=60)
    backup = json.loads(done.stdout)
    assert done.returncode == 3, done.stdout + done.stderr
    assert open(victim, "rb").read() == b"valuable" * 1000 and os.path.lexists(side)
    # No hold needs a -shm: the database is as good as others, and its side file is told of all the same.
    assert backup["consistency"] == ("application" if suffix == "-shm" else "crash")
    assert [(p["path"], p["error"]["name"]) for p in metadata(backup)["problems"]] == [(database, "SourceMissing")]
    assert side in metadata(backup)["problems"][0]["error"]["text"]
    assert restored(site, backup, "side", database) == open(database, "rb").read()


# --- too much of it --------------------------------------------------------------------------------------

def test_a_path_longer_than_any_format(site):
    path = site.fs.subvolume("longest")
    extremes.raise_limits()
    write(os.path.join(path, "f"))
    os.mkdir(os.path.join(path, "chain"))
    extremes.make_chain(os.fsencode(os.path.join(path, "chain")), [b"%03d" % i * 83 for i in range(300)])
    site.service("longest", path)
    with memory.Peak(site.machine) as peak:
        backup = site.create("longest", exit_code=3)
    assert not memory.is_measurable() or peak.mib <= memory.LIMIT_MIB
    [problem] = metadata(backup)["problems"]
    assert problem["path"].startswith(os.path.join(path, "chain", "000")) and len(problem["path"]) < 5000
    assert "nested too deep" in problem["error"]["text"]
    with site.extracted(backup["backup_id"]) as output:
        subprocess.run(["rm", "-rf", output + "/longest" + path + "/chain"], check=True)
        assert open(os.path.join(output, "longest") + path + "/f").read() == "content"


def test_more_than_a_message_holds(site):
    """Databases, sockets and problems with long names: the agent hears of the backup, and of how many there were."""
    path = os.fsencode(site.fs.subvolume("many"))
    names = [b"%03d \xff\n" % i + b"\\" * 240 for i in range(110)]
    make_database(os.fsdecode(path) + "/first.db")
    content = open(path + b"/first.db", "rb").read()
    for name in names:
        write(os.path.join(path, b"databases", name), content)
        os.makedirs(os.path.join(path, b"sockets"), exist_ok=True)
        os.mknod(os.path.join(path, b"sockets", name), stat.S_IFSOCK | 0o600)
        write(os.path.join(path, b"broken", name), b"SQLite format 3\0" + os.urandom(4096 - 16))
    site.service("many", os.fsdecode(path))
    with open(site.machine.worker_log, encoding="utf-8") as log:
        log.seek(0, os.SEEK_END)
        backup = site.create("many", exit_code=3)
        lines = [line for line in log if line.startswith("<4>") and ": service many: " in line]
    m = metadata(backup)
    assert len(lines) == 100, "the journal's room for a worker is used up by a service's user"
    assert (m["sockets"], m["databases_total"], m["problems_total"]) == (110, 221, 110)
    assert 0 < len(m["problems"]) <= 100 and 0 < len(m["left_out"]) <= 100
    assert 0 < len(backup["databases"]) < 221
    shown = site.machine.cli("show", backup["backup_id"]).stdout
    assert "and %d more" % (m["problems_total"] - len(m["problems"])) in shown
    key = os.path.join(site.machine.etc, "keys", "private.pem")
    record = read_repo.Repository(site.machine.repository, read_repo.load_private_key(key)).record(backup["backup_id"])
    assert len(record["databases"]) == 221
    assert backup["backup_id"] in [b["backup_id"] for b in site.machine.json("list", "--limit", 500)["backups"]]
