"""A machine with a file system for services that come and go with each test, and workers that stop at named steps."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

import holdpoint


def command(pid):
    """The command line of a process; empty when it is gone."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return f.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_stopped(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


class Site:
    """`machine` runs; `fs` holds the data. Services are written by tests and forgotten after each."""

    def __init__(self, machine, fs):
        self.machine, self.fs = machine, fs
        self.area = os.path.join(fs.path, ".holdpoint")

    def service(self, name, paths, **keys):
        self.machine.write_service(name, paths, **keys)
        self.machine.reload()

    def forget(self):
        """Takes all services and the worker's memory of them away, and puts the configuration back."""
        services = os.path.join(self.machine.etc, "services.d")
        for name in os.listdir(services):
            os.unlink(os.path.join(services, name))
        self.machine.write_config()
        self.machine.reload()

    def create(self, what, *arguments, exit_code=0):
        """A backup, waited for, with the summary of its job added."""
        time.sleep(0.025)  # what changed less than 20 ms before an instant is read again by the next backup
        backup = self.machine.json("create", what, *arguments, exit_code=exit_code)
        for job in self.machine.json("jobs")["jobs"]:
            if job["type"] == "backup" and job["backup_id"] == backup["backup_id"]:
                return dict(job["summary"], **backup)
        raise AssertionError("no job of backup " + backup["backup_id"])

    def refused(self, what, *arguments):
        """What a backup that must fail says; nothing of it may be left."""
        before = self.images(), self.packs(), self.records()
        done = self.machine.call("create", what, *arguments, "--json")
        assert done.returncode == 1, done.stdout + done.stderr
        assert (self.images(), self.packs(), self.records()) == before
        return done.stdout + done.stderr

    def images(self):
        """Names of the hot copies on disk."""
        if not os.path.isdir(self.area):
            return []
        return sorted(n for n in os.listdir(self.area) if n.startswith("hot."))

    def packs(self):
        found = [n for _, _, names in os.walk(os.path.join(self.machine.repository, "packs")) for n in names]
        return sorted(found)

    def records(self):
        path = os.path.join(self.machine.repository, "backups")
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    @contextlib.contextmanager
    def extracted(self, backup_id, source="local"):
        """A directory with the backup restored aside."""
        output = tempfile.mkdtemp(prefix="out-", dir=self.fs.path)
        try:
            done = self.machine.call("restore", backup_id, "--into", output, "--from", source, "--allow-partial")
            assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: the backup itself is partial
            yield output
        finally:
            shutil.rmtree(output)

    @contextlib.contextmanager
    def at_step(self, step, what, *arguments):
        """A create that waits at `step` for the length of the block, then goes on; yields its handle."""
        self.machine.workers.restart("backup", HOLDPOINT_STEP=step + "=stop")
        try:
            run = Stopped(self, self.machine.json("create", what, "--no-wait", *arguments))
            yield run
            run.go_on()
            run.backup = holdpoint.wait_until(run.finished, "the end of the backup", 60)
        finally:
            self.machine.workers.restart("backup")


class Stopped:
    def __init__(self, site, created):
        self.site, self.backup_id, self.backup = site, created["backup_id"], None
        self.pid = holdpoint.wait_until(
            lambda: next((p for p in site.machine.workers.pids() if is_stopped(p)), None), "the step", 30)

    def go_on(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def helpers(self):
        return [p for p in self.site.machine.workers.pids() if "holdpoint-sqlite" in command(p)]

    def job(self):
        jobs = self.site.machine.json("jobs")["jobs"]
        return next(j for j in jobs if j["type"] == "backup" and j["backup_id"] == self.backup_id)

    def finished(self):
        if self.job()["state"] != "finished":
            return None
        return self.site.machine.json("show", self.backup_id)


@contextlib.contextmanager
def open_site(install, kind="btrfs", size_mib=2048, repository=None):
    with holdpoint.LoopFs(kind, size_mib) as fs, holdpoint.Machine(install, repository) as machine:
        machine.start()
        try:
            yield Site(machine, fs)
        finally:
            machine.stop()


def sql(path, script, user=None):
    """Runs SQL in a process of its own, which is gone afterwards with all that it had open."""
    argv = ["sqlite3", "-cmd", ".timeout 5000", path, script]
    if user is not None:
        argv = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"] + argv
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
