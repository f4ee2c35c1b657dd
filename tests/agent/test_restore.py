"""Restores as an operator meets them: every kind of target and copy, what must be refused, what must survive.

rsync is the oracle: what it would still change, content or metadata, was not restored as it was.
"""

import contextlib
import fcntl
import glob
import json
import os
import shutil
import signal
import sqlite3
import subprocess

import holdpoint
import pytest
import sites
import trees

OWNER = 34
CACHE = ("cache", "sub", "kept")


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def make_database(path, journal, rows):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=" + journal)
        db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, x TEXT)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (x) VALUES (?)", [("x" * 100,)] * rows)
        db.execute("COMMIT")
    os.chown(path, OWNER, OWNER)


def rows(path):
    with contextlib.closing(sqlite3.connect("file:%s?immutable=1" % path, uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return db.execute("SELECT count(*) FROM t").fetchone()[0]


def remove(path):
    """Whatever stands there; a subvolume as such."""
    if os.path.isdir(path) and os.stat(path).st_ino == 256:
        holdpoint.run("btrfs", "-q", "subvolume", "delete", path)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


class Site:
    """A service of a subvolume, a directory and a file, and a second one; all with something left out."""

    def __init__(self, fs, machine, snapshot):
        self.fs, self.machine, self.hot = fs, machine, snapshot == "auto"
        self.data = fs.directory("srv", "data")
        self.conf = os.path.join(fs.path, "srv", "conf")
        self.file = os.path.join(fs.path, "srv", "site.ini")
        self.other = fs.directory("srv", "other")
        self.paths = (self.data, self.conf, self.file)
        self.rounds = 0
        self.fill()
        machine.write_service("site", self.paths, Exclude=["cache/**", "**/*.tmp"], Snapshot=snapshot)
        machine.write_service("other", self.other, Exclude=["cache/**"], Snapshot=snapshot)
        machine.start()
        self.good = self.keep("good")
        self.backup = self.back_up("full")

    def back_up(self, what="site"):
        """With its application there a database has its side files: no hold makes them, nor touches the directory."""
        with contextlib.closing(sqlite3.connect(os.path.join(self.data, "app.db"))) as application:
            application.execute("SELECT count(*) FROM t").fetchone()
            os.utime(self.data, ns=(5, 1_500_000_000_123_456_789))
            backup = self.machine.json("create", what)
        assert backup["status"] == "completed", backup
        return backup

    def fill(self):
        for top in (self.data, self.conf):
            os.makedirs(top, exist_ok=True)
            for name, make in (("names", trees.make_names), ("attributes", trees.make_attributes)):
                os.mkdir(os.path.join(top, name))
                make(os.path.join(os.fsencode(top), os.fsencode(name)))
            for i in range(20):
                write(os.path.join(top, "files", "f%02d" % i), os.urandom(7000))
            write(os.path.join(top, *CACHE), "first")
        write(self.file, "mode=good\n")
        write(os.path.join(self.other, "one"), "other")
        make_database(os.path.join(self.data, "app.db"), "wal", 3000)
        make_database(os.path.join(self.conf, "conf.db"), "delete", 500)
        for top, mode in ((self.data, 0o2751), (self.conf, 0o1770), (self.other, 0o700)):
            os.setxattr(top, "user.site", b"root object")
            os.chown(top, OWNER, 33)
            os.chmod(top, mode)
            os.utime(top, ns=(5, 1_500_000_000_123_456_789))
        os.chown(self.file, OWNER, OWNER)
        os.chmod(self.file, 0o640)

    def keep(self, name):
        """A copy of all that is live, to compare with later. By content: rsync's own look at size and time takes
        two writings within one second for one."""
        top = os.path.join(self.fs.path, "kept", name)
        for path in (*self.paths, self.other):
            if os.path.lexists(path):
                os.makedirs(top + os.path.dirname(path), exist_ok=True)
                holdpoint.run("rsync", "-aHAX", "--checksum", "--delete", path, top + os.path.dirname(path) + "/")
        return top

    def compare(self, top, paths=None, at=""):
        """What differs between the kept copy and what is below `at`. Databases are compared as such: the online
        backup's header differs, and with side files come and go their directory's times."""
        found = []
        for path in paths or self.paths:
            argv = ["rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes", "--exclude=/*/cache/**",
                    "--exclude=*.tmp", "--exclude=*-wal", "--exclude=*-shm"]
            if not self.hot:
                argv.append("--exclude=*.db")
            out = holdpoint.run(*argv, top + path, at + os.path.dirname(path) + "/")
            found += [line for line in out.splitlines() if line]
        return found

    def unplant(self):
        """What a restore carried over stands in directories that the backup did not have."""
        for top in (self.data, self.conf):
            if os.path.isdir(os.path.join(top, "planted")):
                assert os.listdir(os.path.join(top, "planted")) == ["deep"]
                before = os.stat(top)
                shutil.rmtree(os.path.join(top, "planted"))
                os.utime(top, ns=(before.st_atime_ns, before.st_mtime_ns))

    def check_good(self, at=""):
        if not at:
            self.unplant()
        assert self.compare(self.good, at=at) == []
        assert rows(at + os.path.join(self.data, "app.db")) == 3000
        assert rows(at + os.path.join(self.conf, "conf.db")) == 500
        for path in (self.data, self.conf):
            a, b = os.stat(self.good + path), os.stat(at + path)
            assert (a.st_mode, a.st_uid, a.st_gid, a.st_mtime_ns) == (b.st_mode, b.st_uid, b.st_gid, b.st_mtime_ns)
            assert os.getxattr(at + path, "user.site") == b"root object"

    def damage(self):
        self.rounds += 1
        for top in (self.data, self.conf):
            os.makedirs(top, exist_ok=True)
            shutil.rmtree(os.path.join(top, "attributes"), ignore_errors=True)
            write(os.path.join(top, "planted", "x"), "damage %d" % self.rounds)
            write(os.path.join(top, *CACHE), "newer %d" % self.rounds)
            write(os.path.join(top, "planted", "deep", "work.tmp"), "made later %d" % self.rounds)
            os.chmod(os.path.join(top, "planted", "deep"), 0o711)
            os.chmod(top, 0o777)
        make_database(os.path.join(self.data, "app.db"), "wal", 7)
        write(self.file, "damaged %d" % self.rounds)
        return self.keep("damaged-%d" % self.rounds)

    def check_carried(self):
        for top in (self.data, self.conf):
            assert read(top, *CACHE) == b"newer %d" % self.rounds
            assert read(top, "planted", "deep", "work.tmp") == b"made later %d" % self.rounds
            assert os.stat(os.path.join(top, "planted", "deep")).st_mode & 0o777 == 0o711

    def staged(self):
        """All targets share one area, which is there from the first snapshot or restore on."""
        area = os.path.join(self.fs.path, ".holdpoint")
        return [n for n in os.listdir(area) if n.startswith("restore.")] if os.path.isdir(area) else []

    def restore(self, *arguments, service="site", backup=None):
        return self.machine.json("restore", backup or self.backup["backup_id"], "--service", service, "--yes", *arguments)

    def refused(self, error, *arguments, service="site", backup=None, exit_code=1):
        """A restore that must fail, and leave all as it is; returns its message."""
        before = self.keep("before")
        done = self.machine.cli("restore", backup or self.backup["backup_id"], "--service", service, "--yes", "--json",
                                *arguments, exit_code=exit_code)
        assert error in done.stdout + done.stderr, done.stdout + done.stderr
        assert self.compare(before, [p for p in self.paths if os.path.lexists(p)]) == []
        assert self.staged() == []
        return done.stdout + done.stderr

    def clean(self):
        """As at the beginning: everything there, nothing to roll back."""
        self.machine.workers.restart("restore")
        for path in self.paths:
            if os.path.islink(path):
                os.unlink(path)
        # The newest first: an older one is confirmed as well, whatever came after it.
        for row in self.machine.json("restores")["restores"]:
            if row["state"] in ("active", "rolled_back"):
                self.machine.cli("confirm", row["restore_id"], "--yes")
        assert self.staged() == []


@contextlib.contextmanager
def make_site(install, kind):
    with holdpoint.LoopFs(kind, 1024) as fs, holdpoint.Machine(install) as machine:
        yield Site(fs, machine, "auto" if kind == "btrfs" else "none")


@pytest.fixture(scope="module", params=["btrfs", "ext4"])
def shared(request, install):
    with make_site(install, request.param) as s:
        yield s


@pytest.fixture
def site(shared):
    yield shared
    shared.clean()


@pytest.fixture(scope="module")
def shared_btrfs(install):
    with make_site(install, "btrfs") as s:
        yield s


@pytest.fixture
def snapshots(shared_btrfs):
    yield shared_btrfs
    shared_btrfs.clean()


# ---- as it was ----

@pytest.mark.parametrize("source", ["hot", "local"])
@pytest.mark.parametrize("service", ["site", "full"])
def test_as_it_was_and_back(site, source, service):
    if source == "hot" and not site.hot:
        site.damage()
        assert "no hot copy" in site.refused("NotRestorable", "--from", "hot", service=service)
        return
    damaged = site.damage()
    restore = site.restore("--from", source, service=service)
    assert (restore["result"], restore["from"]) == ("done", source)
    assert restore["method"] == ("subvolume" if site.hot else "directory")
    site.check_carried()
    site.check_good()
    for top in (site.data, site.conf):
        write(os.path.join(top, *CACHE), "newest")
    site.machine.json("rollback", "latest", "--yes")
    assert site.compare(damaged) == []
    for top in (site.data, site.conf):
        assert read(top, *CACHE) == b"newest"
    site.machine.json("rollback", restore["restore_id"], "--yes")
    site.check_good()
    assert len(site.staged()) == (4 if service == "full" else 3)
    site.machine.json("confirm", restore["restore_id"], "--yes")
    assert site.staged() == []
    site.check_good()


@pytest.mark.parametrize("source", ["auto", "local"])
def test_aside(site, source):
    damaged = site.damage()
    into = os.path.join(site.fs.path, "aside-" + source)
    restore = site.machine.json("restore", site.backup["backup_id"], "--into", into, "--from", source)
    assert restore["result"] == "done"
    assert sorted(os.listdir(into)) == ["other", "site"]
    site.check_good(os.path.join(into, "site"))
    assert not os.path.exists(os.path.join(into, "site") + os.path.join(site.data, "cache", "sub"))
    assert site.compare(damaged) == []
    assert site.staged() == []
    assert "empty" in site.machine.cli("restore", site.backup["backup_id"], "--into", into, exit_code=1).stderr
    site.check_good(os.path.join(into, "site"))


def test_targets_that_are_gone(site):
    for path in site.paths:
        remove(path)
    restore = site.restore()
    site.check_good()
    site.machine.json("rollback", "latest", "--yes")
    assert [p for p in site.paths if os.path.lexists(p)] == []
    site.machine.json("rollback", restore["restore_id"], "--yes")
    site.check_good()


@pytest.mark.parametrize("source", ["auto", "local"])
def test_targets_of_another_kind(site, source):
    for path in site.paths:
        remove(path)
    os.mkdir(site.data)
    write(os.path.join(site.data, *CACHE), "from a directory")
    write(site.conf, "a file now")
    write(os.path.join(site.file, "a", "directory"), "now")
    site.restore("--from", source)
    assert read(site.data, *CACHE) == b"from a directory"
    site.check_good()
    site.machine.json("rollback", "latest", "--yes")
    assert read(site.data, *CACHE) == b"from a directory"
    assert read(site.conf) == b"a file now"
    assert read(site.file, "a", "directory") == b"now"
    site.machine.json("rollback", "latest", "--yes")
    site.check_good()


def test_incremental_afterwards(site):
    site.restore()
    again = site.back_up()
    assert again["new_bytes"] < 40000, again
    site.damage()
    site.restore("--from", "local")
    again = site.back_up()
    assert again["new_bytes"] < 60000, again
    site.machine.json("rollback", "latest", "--yes")
    again = site.back_up()
    assert again["new_bytes"] < 100000, again
    site.machine.json("rollback", "latest", "--yes")


# ---- refused ----

def test_a_link_in_place_of_the_target(site):
    site.restore()
    site.clean()
    moved = site.conf + ".moved"
    os.rename(site.conf, moved)
    os.symlink(moved, site.conf)
    try:
        assert site.conf in site.refused("NotRestorable")
        assert os.readlink(site.conf) == moved
    finally:
        os.unlink(site.conf)
        os.rename(moved, site.conf)
    site.check_good()


def test_a_parent_that_is_missing(site):
    top = os.path.dirname(site.conf)
    os.rename(top, top + ".away")
    try:
        text = site.machine.cli("restore", site.backup["backup_id"], "--service", "site", "--yes", exit_code=1).stderr
        assert top in text
        assert not os.path.exists(top)
    finally:
        os.rename(top + ".away", top)
    assert site.staged() == []


def test_the_root_of_a_mount(site):
    """By name, and before anything is staged."""
    with holdpoint.LoopFs("ext4", 64) as inner:
        write(os.path.join(inner.path, "x"), "x")
        site.machine.write_service("mounted", inner.path, Snapshot="none")
        site.machine.reload()
        backup = site.machine.json("create", "mounted")["backup_id"]
        assert inner.path in site.refused("NotRestorable", service="mounted", backup=backup)
        assert read(inner.path, "x") == b"x"
    os.unlink(os.path.join(site.machine.etc, "services.d", "mounted.conf"))
    site.machine.reload()


@pytest.mark.parametrize("how", ["file", "cwd"])
def test_a_target_in_use(site, how):
    argv = ["sleep", "60"] if how == "cwd" else ["tail", "-f", os.path.join(site.conf, "files", "f01")]
    site.restore()
    holder = subprocess.Popen(argv, cwd=os.path.join(site.data, "files") if how == "cwd" else "/",
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        site.clean()
        holdpoint.wait_until(lambda: how == "cwd" or any(
            os.readlink(f) == argv[-1] for f in glob.glob("/proc/%d/fd/*" % holder.pid) if os.path.islink(f)),
            "the holder's file")
        text = site.refused("TargetInUse")
        assert str(holder.pid) in text and argv[0] in text
    finally:
        holder.kill()
        holder.wait()


def test_units_without_systemd(site):
    site.machine.write_service("other", site.other, Unit="other-app.service", Snapshot="auto" if site.hot else "none")
    try:
        text = site.refused("NotRestorable", service="other")
        assert "other-app.service" in text and "other" in text
    finally:
        site.machine.write_service("other", site.other, Exclude=["cache/**"], Snapshot="auto" if site.hot else "none")


def test_a_path_not_configured_any_more(site):
    conf = os.path.join(site.machine.etc, "services.d", "site.conf")
    before = read(conf)
    write(conf, before.replace(b"Path=%s\n" % os.fsencode(site.file), b""))
    try:
        assert site.file in site.refused("NotRestorable")
    finally:
        write(conf, before)


def test_without_a_confirmation(site):
    site.machine.cli("restore", site.backup["backup_id"], "--service", "site", exit_code=2)
    done = subprocess.run(
        ["busctl", "--address=" + site.machine.bus.address, "call", holdpoint.BUS_NAME, holdpoint.BUS_ROOT,
         holdpoint.BUS_NAME + ".Manager", "RestoreBackup", "ssa{sv}", site.backup["backup_id"], "site", "0"],
        capture_output=True, text=True)
    assert done.returncode != 0 and "confirm" in done.stderr, done.stderr


def test_partial_only_when_allowed(site):
    broken = os.path.join(site.other, "broken.db")
    make_database(broken, "delete", 3000)
    with open(broken, "r+b") as f:
        f.seek(8192)
        f.write(os.urandom(4096 * 6))
    made = site.machine.call("create", "other", "--json")
    assert made.returncode == 3, made.stdout + made.stderr
    backup = json.loads(made.stdout)["backup_id"]
    assert "allow_partial" in site.refused("NotRestorable", service="other", backup=backup)
    os.unlink(os.path.join(site.other, "one"))
    done = site.machine.cli("restore", backup, "--service", "other", "--yes", "--allow-partial", "--json", exit_code=3)
    summary = json.loads(done.stdout)
    assert (summary["result"], summary["lacking"], summary["lacking_paths"]) == ("partial", 1, [broken])
    assert "1 entries" in done.stdout and broken in done.stdout
    assert read(site.other, "one") == b"other"
    site.clean()
    os.unlink(broken)


# ---- damage and missing parts ----

def hot_images(site, backup):
    path = os.path.join(site.machine.worker_state, "hot", backup + ".json")
    with open(path) as f:
        return [os.path.join(glob.glob(os.path.join(site.fs.path, "**", ".holdpoint", image["identity"]["name"]),
                                       recursive=True, include_hidden=True)[0]) for image in json.load(f)["images"]]


@pytest.mark.parametrize("how", ["opened", "deleted"])
def test_a_hot_copy_that_is_not_itself_any_more(snapshots, how):
    site = snapshots
    site.restore()
    site.clean()
    backup = site.back_up()["backup_id"]
    for image in hot_images(site, backup):
        if how == "deleted":
            holdpoint.run("btrfs", "-q", "subvolume", "delete", image)
        else:
            holdpoint.run("btrfs", "property", "set", "-f", image, "ro", "false")
            write(os.path.join(image, "planted"), "by somebody")
            holdpoint.run("btrfs", "property", "set", image, "ro", "true")
    assert "hot" in site.refused("NotRestorable", "--from", "hot", backup=backup)
    site.damage()
    restore = site.restore(backup=backup)
    assert restore["from"] == "local"
    site.check_good()
    with open(site.machine.worker_log) as f:
        assert "passed over" in f.read()


def test_a_damaged_pack(site):
    packs = [os.path.join(d, n) for d, _, names in os.walk(os.path.join(site.machine.repository, "packs"))
             for n in names]
    before = {p: read(p) for p in packs}
    site.damage()
    for path, data in before.items():
        with open(path, "r+b") as f:
            for at in range(2000, len(data) - 2000, 5000):
                f.seek(at)
                f.write(bytes([data[at] ^ 0x40]))
    try:
        site.refused("IntegrityFailure", "--from", "local", exit_code=8)
        into = os.path.join(site.fs.path, "damaged-aside")
        site.machine.cli("restore", site.backup["backup_id"], "--into", into, "--from", "local", exit_code=8)
        assert not os.path.exists(os.path.join(into, "site"))
    finally:
        for path, data in before.items():
            write(path, data)
    site.restore("--from", "local")


def test_without_the_private_key(site):
    key = os.path.join(site.machine.etc, "keys", "private.pem")
    site.restore()
    site.clean()
    backup = site.back_up("full")["backup_id"]
    site.damage()
    os.rename(key, key + ".away")
    try:
        assert "key" in site.refused("KeyMissing", "--from", "local")
        if site.hot:
            assert site.restore("--from", "hot", service="other", backup=backup)["from"] == "hot"
            assert site.restore("--from", "hot", backup=backup)["from"] == "hot"
            site.check_carried()
    finally:
        os.rename(key + ".away", key)


def test_no_space_while_staging(install):
    with holdpoint.LoopFs("ext4", 64) as fs, holdpoint.Machine(install) as machine:
        top = os.path.join(fs.path, "data")
        write(os.path.join(top, "big"), os.urandom(20 << 20))
        machine.write_service("site", top, Snapshot="none")
        machine.start()
        machine.json("create", "site")
        write(os.path.join(top, "bigger"), os.urandom(20 << 20))
        done = machine.cli("restore", "latest", "--yes", "--json", exit_code=1)
        assert "NoSpace" in done.stdout
        assert sorted(os.listdir(top)) == ["big", "bigger"]
        assert os.listdir(os.path.join(fs.path, ".holdpoint")) == []
        os.unlink(os.path.join(top, "bigger"))
        machine.json("restore", "latest", "--yes")


@pytest.mark.parametrize("aside", [False, True])
def test_cancel_while_staging(site, aside):
    m, damaged = site.machine, site.damage()
    into = os.path.join(site.fs.path, "canceled")
    m.workers.restart("restore", HOLDPOINT_STEP="staging@9=stop")
    job = m.json("restore", site.backup["backup_id"], "--service", "site", "--from", "local", "--no-wait",
                 *(["--into", into] if aside else ["--yes"]))
    number = next(j for j in m.json("jobs")["jobs"] if j["state"] == "running")["id"]

    def stopped():
        for pid in m.workers.pids():
            with open("/proc/%d/stat" % pid) as f:
                if f.read().rpartition(")")[2].split()[0] == "T":
                    return pid
        return None

    pid = holdpoint.wait_until(stopped, "the step")
    m.cli("cancel", number)
    os.kill(pid, signal.SIGCONT)
    holdpoint.wait_until(lambda: not [j for j in m.json("jobs")["jobs"] if j["state"] != "finished"], "the end")
    assert next(j for j in m.json("jobs")["jobs"] if j["id"] == number)["result"] == "canceled", job
    assert site.compare(damaged) == []
    assert site.staged() == []
    assert not os.path.exists(os.path.join(into, "site"))


def test_cancel_comes_too_late(site):
    """The exchange goes to its end, and says so."""
    m = site.machine
    site.damage()
    m.workers.restart("restore", HOLDPOINT_STEP="intent=stop")
    m.json("restore", site.backup["backup_id"], "--service", "site", "--yes", "--no-wait")
    pid = holdpoint.wait_until(lambda: next((p for p in m.workers.pids() if sites.is_stopped(p)), None), "the step", 30)
    job = next(j for j in m.json("jobs")["jobs"] if j["state"] == "running")
    assert job["cancelable"] is False and job["phase"] == "swap"
    m.cli("cancel", job["id"], exit_code=6)
    os.kill(pid, signal.SIGCONT)
    holdpoint.wait_until(lambda: not [j for j in m.json("jobs")["jobs"] if j["state"] != "finished"], "the end")
    assert next(j for j in m.json("jobs")["jobs"] if j["id"] == job["id"])["result"] == "done"
    m.workers.restart("restore")
    m.json("confirm", "latest", "--yes")


def test_another_worker_on_the_service(site):
    """A lock that outlives an agent: the job waits for it, and can be canceled meanwhile."""
    m, damaged = site.machine, site.damage()
    with open(os.path.join(m.worker_state, "locks", "site"), "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        m.json("restore", site.backup["backup_id"], "--service", "site", "--yes", "--no-wait")
        number = next(j for j in m.json("jobs")["jobs"] if j["state"] == "running")["id"]
        m.cli("restore", site.backup["backup_id"], "--service", "site", "--yes", exit_code=6)
        m.cli("cancel", number)
        holdpoint.wait_until(lambda: not [j for j in m.json("jobs")["jobs"] if j["state"] != "finished"], "the end")
    assert next(j for j in m.json("jobs")["jobs"] if j["id"] == number)["result"] == "canceled"
    assert site.compare(damaged) == []
    assert site.staged() == []


# ---- swaps that fail, rollbacks, confirmations ----

def test_one_of_several_cannot_be_exchanged(site):
    """The last path refuses its rename: the others go back, with what was carried."""
    before = site.damage()
    trees.set_flags(site.file, 0x10)  # immutable
    try:
        assert "immutable" in site.refused("TargetInUse")
        assert site.compare(before) == []
        site.check_carried()
    finally:
        trees.set_flags(site.file, 0)
    assert site.machine.worker_recover().returncode == 0
    site.restore()
    site.check_carried()


def test_two_restores_rolled_back_in_order(site):
    first_state = site.damage()
    first = site.restore()["restore_id"]
    second_state = site.damage()
    second = site.restore("--from", "local")["restore_id"]
    done = site.machine.cli("rollback", first, "--yes", exit_code=1)
    assert "newer" in done.stderr
    site.machine.cli("rollback", second, "--yes")
    assert site.compare(second_state) == []
    site.machine.cli("rollback", first, "--yes")
    assert site.compare(first_state) == []
    site.machine.cli("rollback", first, "--yes")
    assert site.compare(second_state) == []


def test_a_file_replaced_since(site):
    """A program wrote a new file over the restored one: a rollback takes it away, another brings it back."""
    site.damage()
    damaged = read(site.file)
    site.restore()
    write(site.file + ".new", "newer")
    os.rename(site.file + ".new", site.file)
    site.machine.cli("rollback", "latest", "--yes")
    assert read(site.file) == damaged
    site.machine.cli("rollback", "latest", "--yes")
    assert read(site.file) == b"newer"


def test_nothing_left_to_roll_back(site):
    restore = site.restore()["restore_id"]
    site.machine.cli("confirm", restore, "--yes")
    for verb in ("rollback", "confirm"):
        assert "NotRestorable" in site.machine.cli(verb, restore, "--yes", "--json", exit_code=1).stdout


def test_a_confirmation_beside_another_file_system(site):
    """Not mounted is not removed: the kept trees are not written off because something else stands there."""
    restore = site.restore()["restore_id"]
    over = os.path.dirname(site.conf)
    holdpoint.run("mount", "-t", "tmpfs", "holdpoint-test", over)
    try:
        os.mkdir(os.path.join(over, ".holdpoint"), 0o700)
        text = site.machine.cli("confirm", restore, "--yes", exit_code=1).stderr
        assert "mounted" in text
    finally:
        holdpoint.run("umount", over)
    assert len(site.staged()) == 3
    site.machine.cli("rollback", restore, "--yes")
    site.machine.cli("confirm", restore, "--yes")


def test_a_subvolume_in_the_old_tree(snapshots):
    """Somebody's nested subvolume went aside with the old tree: a confirmation does not take it along."""
    site = snapshots
    for name, top in (("data", site.data), ("conf", site.conf)):
        holdpoint.run("btrfs", "-q", "subvolume", "create", os.path.join(top, "nested"))
        write(os.path.join(top, "nested", "live"), name)
    restore = site.restore()["restore_id"]
    assert not os.path.exists(os.path.join(site.data, "nested"))
    text = site.machine.cli("confirm", restore, "--yes", exit_code=1).stderr
    assert "subvolume" in text
    kept = glob.glob(os.path.join(site.fs.path, "**", "nested", "live"), recursive=True, include_hidden=True)
    assert sorted(map(read, kept)) == [b"conf", b"data"]
    row = next(r for r in site.machine.json("restores")["restores"] if r["restore_id"] == restore)
    assert row["state"] == "active"
    for path in kept:
        remove(os.path.dirname(path))
    site.machine.cli("confirm", restore, "--yes")
    assert site.staged() == []


def test_an_excluded_subvolume_goes_over(snapshots):
    """It cannot be copied file by file, so it is renamed, and renamed back."""
    site = snapshots
    for top in (site.data, site.conf):
        holdpoint.run("btrfs", "-q", "subvolume", "create", os.path.join(top, "cache", "volume"))
        holdpoint.run("btrfs", "-q", "subvolume", "create", os.path.join(top, "cache", "volume", "inner"))
        write(os.path.join(top, "cache", "volume", "inner", "x"), "mine")
    backup = site.back_up()["backup_id"]
    for source in ("hot", "local"):
        site.restore("--from", source, backup=backup)
        for step in ("restored", "rolled back", "and forth"):
            for top in (site.data, site.conf):
                assert read(top, "cache", "volume", "inner", "x") == b"mine", step
            site.machine.cli("rollback", "latest", "--yes")
        site.clean()
    for top in (site.data, site.conf):
        remove(os.path.join(top, "cache", "volume", "inner"))
        remove(os.path.join(top, "cache", "volume"))


def test_a_restore_left_in_the_middle_comes_first(site):
    """A mix may be live: nothing may be swapped on top of it until that is settled."""
    m = site.machine
    site.damage()
    m.workers.restart("restore", HOLDPOINT_STEP="exchanged@1=kill")
    m.cli("restore", site.backup["backup_id"], "--service", "site", "--yes", exit_code=1)
    moved = site.conf + ".aside"
    os.rename(site.conf, moved)
    os.mkdir(site.conf)
    m.workers.restart("restore")
    try:
        text = m.cli("restore", site.backup["backup_id"], "--service", "site", "--yes", exit_code=1).stderr
        assert "neither" in text and os.listdir(site.conf) == []
    finally:
        os.rmdir(site.conf)
        os.rename(moved, site.conf)
    site.restore()
    site.check_carried()
