"""The repository under failing calls, kills and flipped bits.

The promise: whatever fails and wherever, no backup is called good that is not, earlier backups stay
whole, the next run is clean, and wrong bytes are never delivered.
"""

import contextlib
import hashlib
import os
import shutil

import pytest

import holdpoint

DAMAGED, NO_SUCH_BACKUP = 8, 5  # exit codes


class Site:
    """One service with large and small files, whose packs are small, too."""

    def __init__(self, fs, machine):
        self.machine, self.round = machine, 0
        self.data = fs.directory("data")
        machine.write_config("PackSizeMiB=1\n")
        machine.write_service("app", self.data)
        self.change()

    def change(self):
        """Content of its own each time: several packs of it, and a bundle."""
        self.round += 1
        for i in range(3):
            self.write("large%d" % i, os.urandom(900000 + i))
        for i in range(8):
            self.write("small%d" % i, b"%d of round %d\n" % (i, self.round) * 40)

    def write(self, name, content):
        with open(os.path.join(self.data, name), "wb") as f:
            f.write(content)

    def digest(self, path=None):
        found = hashlib.sha256()
        for name in sorted(os.listdir(path or self.data)):
            with open(os.path.join(path or self.data, name), "rb") as f:
                found.update(name.encode() + b"\0" + f.read())
        return found.hexdigest()

    def completed(self):
        return {b["backup_id"] for b in self.machine.json("list", "--status", "completed")["backups"]}

    def files(self, directory=""):
        top = os.path.join(self.machine.repository, directory)
        return sorted(os.path.relpath(os.path.join(d, n), self.machine.repository)
                      for d, _, names in os.walk(top) for n in names)

    def verify(self, *backups):
        for backup in backups:
            self.machine.cli("verify", backup, "--depth", "data")

    def clean_run(self):
        """The next run: it works, it is whole, and nothing temporary is left."""
        backup = self.machine.json("create", "app")
        assert backup["status"] == "completed" and backup["result"] == "done"
        self.verify(backup["backup_id"])
        assert not [n for n in self.files() if ".tmp-" in n]
        return backup["backup_id"]


@contextlib.contextmanager
def a_site(install):
    with holdpoint.LoopFs("btrfs", 1024) as fs, holdpoint.Machine(install) as machine:
        site = Site(fs, machine)
        machine.start()
        yield site


@pytest.fixture(scope="module")
def site(install):
    with a_site(install) as s:
        s.first = s.machine.json("create", "app")["backup_id"]
        yield s


# ---- calls that fail ----

# (call, its error, every how many times): the first that a thread of the worker or of a helper makes,
# then the next, until a run makes no such call any more.
CALLS = [("fsync", "EIO", 1), ("syncfs", "EIO", 1), ("renameat", "ENOSPC", 1), ("write", "ENOSPC", 1),
         ("pwrite64", "ENOSPC", 4), ("pwrite64", "EIO", 11), ("mkdirat", "ENOSPC", 3), ("unlinkat", "EIO", 2),
         ("close", "EIO", 61), ("openat", "ENOSPC", 71)]


@contextlib.contextmanager
def failing(site, call, error, when):
    """Backups are made by workers whose `call` fails; yields a function that tells whether one did."""
    machine, worker = site.machine, site.machine.workers.install.worker
    wrapper, log = (os.path.join(machine.directory, n) for n in ("failing-worker", "failing.log"))
    with open(wrapper, "w") as f:
        # The tracer is the grandchild (-D): a worker checks that the socket was passed to its own process.
        # LeakSanitizer cannot work in a traced process.
        f.write('#!/bin/sh\nexport ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0"\n')
        f.write('exec strace -D -f -qq -o %s -e trace=%s -e inject=%s:error=%s:when=%d %s "$@"\n' % (
            log, call, call, error, when, worker))
    os.chmod(wrapper, 0o755)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log)

    def happened():
        with open(log, errors="replace") as f:
            return "(INJECTED)" in f.read()

    machine.workers.install.worker = wrapper
    try:
        machine.workers.restart("backup")
        yield happened
    finally:
        machine.workers.install.worker = worker
        machine.workers.restart("backup")


def fails(site, call, error, when):
    """One backup with one failed call; False if it makes no such call."""
    site.change()
    before = site.completed()
    with failing(site, call, error, when) as happened:
        done = site.machine.call("create", "app")
        if not happened():
            return False
    new = site.completed() - before
    if done.returncode == 0:
        # What failed was not needed for the backup (a cache, the state for the next run): it is whole.
        assert len(new) == 1, when
        site.verify(*new)
    else:
        assert not new, (when, done.stderr)
    site.verify(site.first)
    site.clean_run()
    return True


@pytest.mark.parametrize("call, error, every", CALLS)
def test_call_fails(site, call, error, every):
    when = 1
    while fails(site, call, error, when):
        when += every
    assert when > 1


# ---- kills ----

STEPS = ["pack-written@1", "pack-written@3", "pack-published@1", "pack-published@3", "packs-finished", "packs-durable"]


@pytest.mark.parametrize("step", STEPS)
def test_backup_killed(site, step):
    site.change()
    before = site.completed()
    site.machine.workers.restart("backup", HOLDPOINT_STEP=step + "=kill")
    assert site.machine.call("create", "app").returncode == 1
    site.machine.workers.restart("backup")
    assert site.completed() == before
    packs = len(site.files("packs"))
    backup = site.clean_run()
    site.verify(site.first)
    if step == "packs-durable":
        # What was whole is used: only the metadata of another instant may be new.
        assert len(site.files("packs")) <= packs + 1
    restored(site, backup)


def restored(site, backup):
    target = os.path.join(site.machine.directory, "restored")
    shutil.rmtree(target, ignore_errors=True)
    os.mkdir(target)
    site.machine.cli("restore", backup, "--from", "local", "--into", target)
    top = next(d for d, _, names in os.walk(target) if "large0" in names)
    assert site.digest(top) == site.digest()


def test_delete_killed(site):
    backup = site.clean_run()
    site.machine.workers.restart("maintain", HOLDPOINT_STEP="record-deleted=kill")
    assert site.machine.call("delete", backup, "--yes").returncode == 1
    site.machine.workers.restart("maintain")
    assert backup + "\n" not in "\n".join(site.files("backups")) + "\n"
    site.verify(site.first)
    site.clean_run()


@pytest.mark.parametrize("step", ["repo-key-pair", "repo-host-secret", "repo-host", "repo-config"])
def test_making_killed(install, step):
    with a_site(install) as s:
        s.machine.workers.restart("backup", HOLDPOINT_STEP=step + "=kill")
        assert s.machine.call("create", "app").returncode == 1
        s.machine.workers.restart("backup")
        assert s.completed() == set()
        backup = s.clean_run()
        assert len(s.files("hosts")) == 1
        restored(s, backup)


# ---- power cuts ----

def cut_power(fs):
    """What the disk had at this instant is all there is: nothing that only the page cache held."""
    image = os.path.join(fs.base, "image")
    holdpoint.run("cp", "--sparse=always", image, image + ".cut")
    fs._unmount()
    os.rename(image + ".cut", image)
    fs._mount()


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_power_cut(install, kind):
    """The index lies on another disk and remembers everything: it must not be believed."""
    with holdpoint.LoopFs(kind, 300, "commit=300") as disk, holdpoint.LoopFs("btrfs", 512) as fs, \
            holdpoint.Machine(install, os.path.join(disk.path, "repository")) as machine:
        s = Site(fs, machine)
        machine.start()
        first = s.clean_run()
        for step in ["pack-published@1", "packs-finished", "packs-durable", "committed", None]:
            s.change()
            before = set(s.files("backups"))
            machine.workers.restart("backup", HOLDPOINT_STEP="%s=kill" % step if step else "")
            assert machine.call("create", "app").returncode == (1 if step else 0)
            holdpoint.wait_until(lambda: not machine.workers.pids(), "the workers' end")
            made = set(s.files("backups")) - before
            assert len(made) == (step in ("committed", None))
            cut_power(disk)
            machine.workers.restart("backup")
            assert set(s.files("backups")) == before | made, step
            s.verify(first, *map(os.path.basename, made))
            restored(s, s.clean_run())


# ---- damage ----

def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 0x10]))


def test_flipped_bits(install):
    """One bit in each file: verify names it, a restore fails or is right, and once mended all is well."""
    with a_site(install) as s:
        backup = s.clean_run()
        target = os.path.join(s.machine.directory, "restored")
        for name in s.files():
            path = os.path.join(s.machine.repository, name)
            at = os.path.getsize(path) // 3
            flip(path, at)
            done = s.machine.call("verify", backup, "--depth", "data", "--json")
            assert done.returncode == DAMAGED, (name, done.stdout, done.stderr)
            assert name in done.stdout + done.stderr or os.path.basename(name) in done.stdout + done.stderr, done
            shutil.rmtree(target, ignore_errors=True)
            os.mkdir(target)
            done = s.machine.call("restore", backup, "--from", "local", "--into", target)
            if done.returncode == 0:
                assert name.startswith("hosts/"), name  # the host has its secret itself
                restored(s, backup)
            else:
                assert done.returncode == DAMAGED, (name, done.stderr)
            flip(path, at)
            s.verify(backup)
        restored(s, backup)


def test_lost_files(install):
    """Each file away, one by one: the same."""
    with a_site(install) as s:
        backup = s.clean_run()
        for name in s.files():
            path = os.path.join(s.machine.repository, name)
            os.rename(path, path + ".away")
            done = s.machine.call("verify", backup, "--depth", "data")
            expected = NO_SUCH_BACKUP if name.startswith("backups/") else DAMAGED
            assert done.returncode == expected, (name, done.stderr)
            os.rename(path + ".away", path)
            s.verify(backup)
        restored(s, backup)


@pytest.mark.parametrize("lost", ["packs", "torn", "sessions"])
def test_next_run_stores_what_is_lost(install, lost):
    """Nothing of the service has changed: still the next backup is whole by itself."""
    with a_site(install) as s:
        backup = s.clean_run()
        names = s.files("sessions" if lost == "sessions" else "packs")
        for name in names:
            path = os.path.join(s.machine.repository, name)
            if lost == "torn":
                os.truncate(path, os.path.getsize(path) // 2)
            else:
                os.rename(path, os.path.join(s.machine.directory, os.path.basename(name)))
        s.machine.cli("verify", backup, "--depth", "data", exit_code=DAMAGED)
        restored(s, s.clean_run())
        restored(s, backup)
