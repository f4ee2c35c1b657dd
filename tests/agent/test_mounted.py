"""A service whose path is a mounted subvolume: its mount is replaced with its tree, and checked.

Everything real: a btrfs whose subvolumes are mounted one by one, as fstab does it; beside the mounted path a plain
directory and a file, which are exchanged with it, all or none.
"""

import contextlib
import json
import os
import signal
import sqlite3
import stat
import subprocess

import holdpoint
import pytest


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def read(*path):
    with open(os.path.join(*path)) as f:
        return f.read()


OPTIONS = "subvol=@/back,noatime,nosuid"
# The names of a shell's own, so that the holder's command line ends with the shell.
HOLD = "exec 9<%s; echo ready; read x"


@contextlib.contextmanager
def process(*argv):
    """A process that says when it is ready, and ends with this."""
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


class Site:
    """`data` is subvol=@/back of a file system whose top level the service's user never sees."""

    def __init__(self, fs, machine, stack):
        self.fs, self.machine = fs, machine
        fs.subvolume("@")
        fs.subvolume("@", "back")
        self.host = os.path.join(fs.base, "host")  # what a service's mount stands on is shared, as under systemd
        self.data = os.path.join(self.host, "back")
        self.conf = os.path.join(fs.path, "@", "conf")
        self.file = os.path.join(fs.path, "@", "site.ini")
        self.top_area = os.path.join(fs.path, "@", ".holdpoint")
        self.fstab = os.path.join(fs.base, "fstab")
        os.mkdir(self.host)
        holdpoint.run("mount", "-t", "tmpfs", "none", self.host)
        stack.callback(holdpoint.run, "umount", "--lazy", self.host)
        holdpoint.run("mount", "--make-shared", self.host)
        os.mkdir(self.data)
        self.table(OPTIONS)
        self.mount()
        self.round = 0
        self.fill("good")
        machine.write_service("site", [self.data, self.conf, self.file], Exclude="cache/**")
        self.start()
        self.backup = machine.json("create", "site")["backup_id"]
        self.new = self.state()

    def start(self):
        for name in holdpoint.CLASSES:
            self.machine.workers.start(name, HOLDPOINT_FSTAB=self.fstab)
        self.machine.agent.start(self.machine.bus)

    def workers(self, **extra):
        self.machine.workers.restart("restore", HOLDPOINT_FSTAB=self.fstab, **extra)

    def table(self, options):
        write(self.fstab, "# a table\nUUID=none / btrfs defaults 0 0\n%s %s btrfs %s 0 0\n" % (
            self.fs.device, self.data, options))

    def mount(self, options=OPTIONS, at=None):
        holdpoint.run("mount", "-o", options, self.fs.device, at or self.data)

    def umount(self, at=None):
        holdpoint.run("umount", at or self.data)

    def boot(self, how):
        """What a crash leaves: the same boot, or the next one with the mount there, or (nofail, noauto) without it."""
        if how == "same":
            return
        if os.path.ismount(self.data):
            self.umount()
        self.fs.remount()
        if how == "mounted":
            self.mount()

    def recover(self, **extra):
        return self.machine.worker_recover(HOLDPOINT_FSTAB=self.fstab, **extra)

    def fill(self, what):
        for i in range(6):
            write(os.path.join(self.data, "d%d" % (i % 2), "f%d" % i), what * (i + 1))
        write(os.path.join(self.data, "cache", "sub", "kept"), "kept " + what)
        write(os.path.join(self.conf, "app.conf"), what)
        write(self.file, what)
        self.kept = "kept " + what
        with contextlib.closing(sqlite3.connect(os.path.join(self.data, "app.db"), isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=wal")
            db.execute("CREATE TABLE IF NOT EXISTS t (x TEXT)")
            db.execute("DELETE FROM t")
            db.execute("INSERT INTO t VALUES (?)", (what,))

    def damage(self):
        self.round += 1
        self.fill("damaged %d" % self.round)
        self.old = self.state()

    def state(self):
        with contextlib.closing(sqlite3.connect(os.path.join(self.data, "app.db"))) as db:
            rows = db.execute("SELECT x FROM t").fetchall()
        return (rows[0][0], read(self.data, "d1", "f5"), read(self.conf, "app.conf"), read(self.file))

    def subvolume(self):
        """Id of what is behind the mount, and of what has its name on the top level: they must be one."""
        def identify(path):
            assert os.stat(path).st_ino == 256
            return int(holdpoint.run("btrfs", "inspect-internal", "rootid", path))
        behind, named = identify(self.data), identify(os.path.join(self.fs.path, "@", "back"))
        assert behind == named
        return behind

    def check_whole(self):
        """All old or all new, behind a mount as it was, with what the backup leaves out."""
        assert os.path.ismount(self.data)
        options = holdpoint.run("findmnt", "--noheadings", "--output", "OPTIONS", self.data).strip().split(",")
        assert {"rw", "noatime", "nosuid", "subvol=/@/back"} <= set(options), options
        assert "nodev" not in options
        self.subvolume()
        assert self.state() in (self.old, self.new), self.state()
        assert read(self.data, "cache", "sub", "kept") == self.kept
        assert not os.path.exists(os.path.join(self.data, ".holdpoint"))

    def staged(self):
        return [n for n in os.listdir(self.top_area) if not n.startswith("hot.")]

    def restore(self, *arguments, **options):
        return self.machine.json("restore", self.backup, "--service", "site", "--yes", *arguments, **options)

    def refused(self, error, *words, backup=None):
        """A plan and a restore say why, and nothing is touched."""
        before, state = self.subvolume(), self.state()
        backup = backup or self.backup
        plan = self.machine.call("restore", backup, "--dry-run", "--json").stdout
        done = self.machine.call("restore", backup, "--yes", "--json")
        assert done.returncode == 1, done.stdout + done.stderr
        for word in (error, *words):
            assert word in done.stdout, done.stdout
            assert word in plan, plan
        assert (self.subvolume(), self.state()) == (before, state)
        assert self.staged() == []

    def row(self):
        return self.machine.json("restores")["restores"][0]

    def settle(self):
        self.machine.agent.stop()
        self.machine.agent.start(self.machine.bus)
        holdpoint.wait_until(lambda: not [j for j in self.machine.json("jobs")["jobs"] if j["state"] != "finished"],
                             "the agent's reconciling")
        for row in self.machine.json("restores")["restores"]:
            if row["state"] in ("active", "rolled_back", "confirming"):
                self.machine.cli("confirm", row["restore_id"], "--yes")
        assert self.staged() == []


@pytest.fixture(scope="module")
def shared(install):
    with holdpoint.LoopFs("btrfs", 1024) as fs, holdpoint.Machine(install) as machine, contextlib.ExitStack() as stack:
        yield Site(fs, machine, stack)


@pytest.fixture
def site(shared):
    """Each test begins with nothing open, a state of its own, and the mount as the table says."""
    shared.table(OPTIONS)
    shared.damage()
    return shared


@pytest.mark.parametrize("source", ["hot", "local"])
def test_restore_and_back(site, source):
    first = site.subvolume()
    done = site.restore("--from", source)
    assert (done["result"], done["method"], done["from"]) == ("done", "subvolume", source)
    assert site.subvolume() != first
    assert site.state() == site.new
    site.check_whole()
    site.machine.cli("rollback", "latest", "--yes")
    assert site.subvolume() == first
    assert site.state() == site.old
    site.check_whole()
    site.machine.cli("rollback", "latest", "--yes")
    assert site.state() == site.new
    site.machine.cli("confirm", "latest", "--yes")
    site.check_whole()
    assert site.staged() == []
    # Hot copies lie beside the subvolume, and stay.
    if source == "hot":
        site.damage()
        assert site.restore("--from", "hot")["from"] == "hot"
        site.settle()


def test_incremental_afterwards(site):
    """Backups go on from the restored tree, and their hot copies can be restored in their turn."""
    site.restore()
    write(os.path.join(site.data, "d0", "more"), "more")
    backup = site.machine.json("create", "site")
    assert backup["status"] == "completed" and "hot" in backup["copies"]
    os.unlink(os.path.join(site.data, "d0", "more"))
    site.machine.cli("restore", backup["backup_id"], "--from", "hot", "--yes")
    assert read(site.data, "d0", "more") == "more"
    site.subvolume()
    site.settle()
    site.restore()
    site.settle()


@pytest.mark.parametrize("options,why", [("subvolid=256", "subvolid="), ("defaults", "without subvol="), ("bind", "bind"),
                                         ("subvol=@/other", "another subvolume")])
def test_what_would_come_back_old(site, options, why):
    """What is mounted is fine: how it is mounted at the next boot is not."""
    site.table(options)
    site.refused("NotRestorable", site.data, site.fstab, why)


@pytest.fixture
def elsewhere(site):
    """Another service, at a place of its own."""
    place = os.path.join(site.host, "other")
    os.mkdir(place)
    try:
        yield place
    finally:
        while os.path.ismount(place):
            site.umount(place)
        os.rmdir(place)
        os.unlink(os.path.join(site.machine.etc, "services.d", "other.conf"))
        site.machine.reload()


@pytest.mark.parametrize("what,why", [("top", "the top level"), ("bind", "bind mount of a directory"), ("ro", "read-only"),
                                      ("twice", "another mount")])
def test_other_mounts(site, elsewhere, what, why):
    if what == "top":
        site.mount("subvolid=5", elsewhere)
    elif what == "bind":
        holdpoint.run("mount", "--bind", site.conf, elsewhere)
    else:
        if not os.path.exists(os.path.join(site.fs.path, "other")):
            site.fs.subvolume("other")
        site.mount("subvol=other", elsewhere)
    write(os.path.join(elsewhere, "file"), "there")
    site.machine.write_service("other", elsewhere, Exclude=["@", "@/**", "other/**", "other"],
                               Snapshot="none" if what == "bind" else "auto")
    site.machine.reload()
    backup = site.machine.json("create", "other")["backup_id"]
    if what == "ro":
        holdpoint.run("mount", "-o", "remount,bind,ro", elsewhere)
    elif what == "twice":
        holdpoint.run("mount", "--bind", elsewhere, elsewhere)
    site.refused("NotRestorable", elsewhere, why, backup=backup)


def test_top_level_out_of_reach(site, elsewhere):
    """As in a container that has no device: images lie in the subvolume then, and a restore is refused."""
    with holdpoint.LoopFs("btrfs", 128) as fs:
        fs.subvolume("data")
        node = os.path.join(site.host, "disk")
        os.mknod(node, 0o600 | stat.S_IFBLK, os.stat(fs.device).st_rdev)
        holdpoint.run("mount", "-o", "subvol=data", node, elsewhere)
        os.unlink(node)
        fs._unmount()
        write(os.path.join(elsewhere, "file"), "there")
        site.machine.write_service("other", elsewhere)
        site.machine.reload()
        backup = site.machine.json("create", "other")
        assert backup["status"] == "completed" and "hot" in backup["copies"]
        assert [n for n in os.listdir(os.path.join(elsewhere, ".holdpoint")) if n.startswith("hot.")]
        site.refused("NotRestorable", "top level", node, backup=backup["backup_id"])
        # Reachable again: what lies in the old tree does not keep it from being dropped.
        fs._mount()
        site.umount(elsewhere)
        holdpoint.run("mount", "-o", "subvol=data", fs.device, elsewhere)
        site.machine.cli("restore", backup["backup_id"], "--yes")
        assert read(elsewhere, "file") == "there" and not os.path.exists(os.path.join(elsewhere, ".holdpoint"))
        site.machine.cli("confirm", "latest", "--yes")
        assert os.listdir(os.path.join(fs.path, ".holdpoint")) == []
        site.umount(elsewhere)


def test_doctor(site):
    def severity():
        report = json.loads(site.machine.call("doctor", "--json").stdout)
        return [f["severity"] for f in report["findings"] if f["check"] == "service.restore" and f["subject"] == site.data]

    assert severity() == ["ok"]
    site.table("subvolid=256")
    assert severity() == ["warning"]


@pytest.mark.parametrize("what", ["directory", "file"])
def test_was_no_mount_then(site, elsewhere, what):
    """A directory of then comes as the subvolume of now; a file cannot."""
    os.rmdir(elsewhere)
    write(os.path.join(elsewhere, "file") if what == "directory" else elsewhere, "then")
    site.machine.write_service("other", elsewhere)
    site.machine.reload()
    backup = site.machine.json("create", "other")["backup_id"]
    holdpoint.run("rm", "-r", elsewhere)
    os.mkdir(elsewhere)
    if not os.path.exists(os.path.join(site.fs.path, "other")):
        site.fs.subvolume("other")
    site.mount("subvol=other", elsewhere)
    write(os.path.join(elsewhere, "file"), "now")
    if what == "file":
        site.refused("NotRestorable", elsewhere, "no directory", backup=backup)
        return
    site.machine.cli("restore", backup, "--yes")
    assert read(elsewhere, "file") == "then" and os.stat(elsewhere).st_ino == 256
    site.machine.cli("rollback", "latest", "--yes")
    assert read(elsewhere, "file") == "now"
    site.machine.cli("confirm", "latest", "--yes")


@pytest.mark.parametrize("how", ["file", "second", "part", "inside", "namespace"])
def test_in_use(site, how):
    """By a process, or by a mount that would go on showing the old tree."""
    place = os.path.join(site.host, "second")
    with contextlib.ExitStack() as undo:
        if how == "file":
            path = os.path.join(site.data, "d0", "f0")
            undo.enter_context(process("bash", "-c", HOLD % path))
        elif how == "inside":
            place = os.path.join(site.data, "d0")
            holdpoint.run("mount", "-t", "tmpfs", "none", place)
            undo.callback(site.umount, place)
        elif how == "namespace":
            undo.enter_context(process("unshare", "--mount", "--propagation", "private", "bash", "-c", "echo ready; read x"))
            place = site.data
        else:
            os.mkdir(place)
            undo.callback(os.rmdir, place)
            if how == "second":
                site.mount(at=place)
            else:
                holdpoint.run("mount", "--bind", os.path.join(site.data, "d0"), place)
            undo.callback(site.umount, place)
        state = site.state() if how != "inside" else None
        plan = json.loads(site.machine.call("restore", site.backup, "--dry-run", "--json").stdout)
        assert not plan["possible"] and (path if how == "file" else place) in " ".join(plan["holders"]), plan
        done = site.machine.call("restore", site.backup, "--yes", "--json")
        assert done.returncode == 1 and "TargetInUse" in done.stdout, done.stdout
        assert (path if how == "file" else place) in done.stdout
        assert state is None or site.state() == state
    site.check_whole()
    assert site.staged() == []
    site.restore()
    site.settle()


def test_copies_that_follow(site):
    """What systemd gives its services: a mount namespace of their own that follows the host's."""
    with process("unshare", "--mount", "--propagation", "slave", "bash", "-c",
                 "echo ready; read x; stat -c %%i %s; cat %s/d1/f5" % (site.data, site.data)) as child:
        site.restore()
        seen = child.communicate("\n")[0].splitlines()
    assert seen == ["256", site.new[1]]
    site.settle()


def test_old_tree_expires(site):
    """What KeepOldDays= has passed over goes with the next backup, whose worker reaches it on the top level, too."""
    site.restore()
    intent = os.path.join(site.machine.worker_state, "intents", site.row()["restore_id"] + ".json")
    facts = json.loads(read(intent))
    facts["completed_usec"] -= 8 * 86400 * 1000000
    write(intent, json.dumps(facts))
    site.machine.cli("create", "site")
    assert site.row()["state"] == "confirmed" and site.staged() == []
    site.check_whole()


def stopped(site, step, *command):
    """Starts a command whose worker stops at `step`, and gives the worker."""
    site.workers(HOLDPOINT_STEP=step + "=stop")
    site.machine.cli(*command, "--yes", "--no-wait")

    def find():
        for pid in site.machine.workers.pids():
            with contextlib.suppress(OSError), open("/proc/%d/stat" % pid) as f:
                if f.read().rpartition(")")[2].split()[0] == "T":
                    return pid
        return None

    return holdpoint.wait_until(find, "the worker at " + step)


def finished(site, pid):
    os.kill(pid, signal.SIGCONT)
    holdpoint.wait_until(lambda: not site.machine.workers.pids(), "the worker's end")
    site.workers()
    return site.row()


def test_somebody_comes_before_the_unmount(site):
    pid = stopped(site, "carried", "restore", site.backup)
    with process("bash", "-c", HOLD % os.path.join(site.data, "d0", "f0")):
        row = finished(site, pid)
    assert row["state"] == "failed" and "cannot be unmounted" in row["error"], row
    assert site.state() == site.old
    site.check_whole()
    assert site.staged() == []


def test_a_mount_shows_it_after_the_unmount(site):
    """A namespace that does not follow is found at the latest when the mount is away."""
    pid = stopped(site, "carried", "restore", site.backup)
    with process("unshare", "--mount", "--propagation", "private", "bash", "-c", "echo ready; read x"):
        row = finished(site, pid)
    assert row["state"] == "failed" and site.data in row["error"] and "shows it" in row["error"], row
    assert site.state() == site.old
    site.check_whole()
    assert site.staged() == []


def test_another_path_cannot_be_exchanged(site):
    """The mounted path was exchanged first: it goes back, and its mount with it."""
    pid = stopped(site, "unmounted", "restore", site.backup)
    holdpoint.run("chattr", "+i", site.file)
    try:
        row = finished(site, pid)
    finally:
        holdpoint.run("chattr", "-i", site.file)
    assert row["state"] == "failed" and "immutable" in row["error"], row
    assert site.state() == site.old
    site.check_whole()
    assert site.staged() == []


@pytest.mark.parametrize("why", ["gone", "covered"])
def test_it_cannot_be_mounted_again(site, why):
    """That is said, nobody may back it up, and the recovery brings it to one end: undone as far as that went, or through."""
    pid = stopped(site, "exchanged@3", "restore", site.backup)
    if why == "gone":
        os.rename(site.data, site.data + ".away")
    else:
        holdpoint.run("mount", "-t", "tmpfs", "none", site.data)
    row = finished(site, pid)
    assert row["state"] == "swapping", row
    if why == "covered":
        assert site.machine.call("create", "site").returncode == 6
    done = site.recover()
    assert done.returncode != 0 and site.data in done.stderr, done.stderr
    if why == "gone":
        os.rename(site.data + ".away", site.data)
    else:
        site.umount()
    assert site.recover().returncode == 0
    assert site.state() == (site.old if why == "gone" else site.new)
    site.check_whole()
    site.settle()


def test_rollback_without_its_mount(site):
    """Unmounted since: the trees change places all the same, and it stays unmounted."""
    site.restore()
    site.umount()
    site.machine.cli("rollback", "latest", "--yes")
    assert not os.path.ismount(site.data)
    write(site.fstab, "")
    for argv, why in ((["-t", "tmpfs", "none"], "only a subvolume"), (["-o", "subvol=@", site.fs.device], "/@ is mounted there")):
        holdpoint.run("mount", *argv, site.data)
        refused = site.machine.cli("rollback", "latest", "--yes", "--json", exit_code=1).stdout
        assert "NotRestorable" in refused and why in refused, refused
        site.umount()
    site.mount()
    assert site.state() == site.old
    site.check_whole()
    site.settle()


STEPS = ["intent", "carried", "unmounted", "exchanged@1", "exchanged@2", "exchanged@3", "mounted", "swapped", "settled"]
BOOTS = ["same", "mounted", "bare"]


def killed(site, step, *command):
    site.workers(HOLDPOINT_STEP=step + "=kill")
    done = site.machine.call(*command, "--yes")
    site.machine.agent.kill()
    site.workers()
    assert done.returncode == 1, "the worker did not die at %s: %s" % (step, done.stdout + done.stderr)


@pytest.mark.parametrize("step,boot", [(step, boot) for i, step in enumerate(STEPS) for k, boot in enumerate(BOOTS)
                                       if i in (2, 3, 5, 6) or i % 3 == k])
def test_killed(site, step, boot):
    killed(site, step, "restore", site.backup)
    site.boot(boot)
    done = site.recover()
    assert done.returncode == 0, done.stderr
    if (step, boot) == ("settled", "bare"):
        site.mount()  # nothing was left to do
    assert site.state() == (site.new if STEPS.index(step) >= STEPS.index("exchanged@3") else site.old)
    site.check_whole()
    site.settle()


@pytest.mark.parametrize("step,boot", [("unmounted", "bare"), ("exchanged@1", "mounted"), ("mounted", "same")])
def test_rollback_killed(site, step, boot):
    site.restore()
    restore_id = site.row()["restore_id"]
    killed(site, step, "rollback", restore_id)
    site.boot(boot)
    assert site.recover().returncode == 0
    site.check_whole()
    assert site.state() == (site.old if step == "mounted" else site.new)
    site.settle()


@pytest.mark.parametrize("step,boot", [("recover", "same"), ("unmounted", "mounted"), ("undone@1", "same"), ("undone@1", "bare"),
                                       ("mounted", "mounted"), ("mounted", "bare"), ("removed@1", "bare")])
def test_recovery_killed(site, step, boot):
    """Killed, killed again while it recovers, with a boot between: it converges."""
    killed(site, "exchanged@2", "restore", site.backup)
    for _ in range(2):
        site.boot(boot)
        assert site.recover(HOLDPOINT_STEP=step + "=kill").returncode in (-9, 0)
    done = site.recover()
    assert done.returncode == 0, done.stderr
    if (step, boot) == ("removed@1", "bare"):
        site.mount()  # it was undone before
    assert site.state() == site.old
    site.check_whole()
    site.settle()
