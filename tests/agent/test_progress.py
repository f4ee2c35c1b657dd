"""Progress as the agent tells it of real workers: totals from the first bytes on, and an end that follows from the rate."""

import os
import signal
import time

import holdpoint
import pytest
import sites
from busclient import Client, variant

MIB = 1 << 20
SIZES = (MIB, MIB + 1, 3 * MIB, 5, 0, 700000)


def fill(top, seed):
    """Two directories of files, a hole, a database, a further name; the logical bytes below `b`."""
    for name in ("a", "b"):
        os.mkdir(os.path.join(top, name))
        for i, size in enumerate(SIZES):
            with open(os.path.join(top, name, "%d" % i), "wb") as f:
                f.write(os.urandom(size))
    with open(os.path.join(top, "b", "hole"), "wb") as f:
        f.truncate(64 * MIB)
    os.link(os.path.join(top, "a", "2"), os.path.join(top, "b", "link"))
    sites.sql(os.path.join(top, "b.db"), "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(300000));")


BELOW_B = sum(SIZES) + 64 * MIB + 3 * MIB  # the further name is a file of its own where its file is not asked for
ENTRIES_B = 1 + len(SIZES) + 2


class World:
    def __init__(self, site):
        self.site, self.machine = site, site.machine
        for name in ("one", "two"):
            top = site.fs.subvolume(name)
            fill(top, name)
            site.service(name, top)
        self.one, self.full = site.create("one"), site.create("full")
        self.bare = site.create("two", "--no-include-files")
        self.database = os.path.getsize(os.path.join(site.fs.path, "two", "b.db"))
        self.b = os.path.join(site.fs.path, "one", "b")
        self.bus = Client(self.machine.bus.address)

    def job(self, number=None):
        """The newest, or one of them."""
        jobs = self.machine.json("jobs")["jobs"]
        return next(j for j in jobs if number is None or number in (j["id"], j["job"]))

    def into(self, name):
        return os.path.join(self.site.fs.path, "into-" + name)

    def stop_at(self, step, places, *arguments):
        """The job while its worker stands at the last place, more than a second after it stood at the first."""
        self.machine.workers.restart("restore", HOLDPOINT_STEP=",".join("%s@%d=stop" % (step, n) for n in places))
        try:
            stops, number = self.stops(), self.machine.json(*arguments, "--no-wait")["job"]
            pid, before = self.stopped(stops + 1), self.job(number)["bytes_done"]
            for i in range(1, len(places)):
                time.sleep(1.1 if i == 1 else 0.15)  # progress is told ten times a second
                os.kill(pid, signal.SIGCONT)
                self.stopped(stops + 1 + i)
            job = holdpoint.wait_until(lambda: self.told(number, before), "progress", 10)
            os.kill(pid, signal.SIGCONT)
            holdpoint.wait_until(lambda: self.job(number)["state"] == "finished", "the end", 60)
            return job, self.job(number)
        finally:
            self.machine.workers.restart("restore")

    def told(self, number, before=0):
        job = self.job(number)
        return job["bytes_done"] > before and dict(job, seen=time.time())

    def stops(self):
        with open(self.machine.worker_log) as f:
            return f.read().count("reached: stop")

    def stopped(self, n):
        """The worker at the `n`th stop of all."""
        holdpoint.wait_until(lambda: self.stops() == n, "a step", 30)
        return holdpoint.wait_until(lambda: next((p for p in self.machine.workers.pids() if sites.is_stopped(p)), None), "a step", 30)


@pytest.fixture(scope="module")
def world(install):
    with sites.open_site(install, "btrfs", 2048) as site:
        w = World(site)
        yield w
        w.bus.close()


def check(world, job, ended, size, entries):
    assert ended["result"] == "done", ended
    for j in (job, ended):
        assert (j["bytes_total"], j["files_total"]) == (size, entries), j
    assert 0 < job["bytes_done"] < size and 0 < job["progress"] < 1, job
    assert abs(job["progress"] - job["bytes_done"] / size) < 0.01, job
    assert (ended["bytes_done"], ended["files_done"], ended["progress"]) == (size, entries, 1), ended
    # More than a second was waited since the phase began: nothing can be faster than that.
    assert 0 < job["rate"] <= job["bytes_done"] / 1.1, job
    left = (size - job["bytes_done"]) / job["rate"]
    assert abs(job["expected_end_usec"] / 1e6 - job["seen"] - left) < 2, job


def test_restore(world):
    """In place, of the backup's only service."""
    job, ended = world.stop_at("staging", (4, 7, 8), "restore", world.one["backup_id"], "--yes", "--from", "local")
    check(world, job, ended, world.one["bytes"], world.one["files"])
    world.machine.cli("confirm", "latest", "--yes")


def test_restore_of_a_path(world):
    os.mkdir(world.into("path"))
    job, ended = world.stop_at("staging", (2, 4, 5), "restore", world.full["backup_id"], "--path", world.b,
                               "--into", world.into("path"), "--from", "local")
    check(world, job, ended, BELOW_B, ENTRIES_B)


@pytest.mark.parametrize("what", ["aside", "service", "files"])
def test_restore_aside(world, what):
    arguments, size, entries = {
        "aside": ((world.one["backup_id"],), world.one["bytes"], world.one["files"]),
        "service": ((world.full["backup_id"], "--service", "one"), world.one["bytes"], world.one["files"]),
        "files": ((world.full["backup_id"], "--path", world.b + "/3", "--path", world.b + ".db"), 5 + world.database, 2),
    }[what]
    os.mkdir(world.into(what))
    world.machine.json("restore", *arguments, "--into", world.into(what), "--from", "local")
    job = world.job()
    assert (job["bytes_total"], job["files_total"], job["bytes_done"], job["files_done"]) == (size, entries, size, entries)


def test_restore_of_an_image(world):
    """It comes at once; of two services each with its own size."""
    restored = world.machine.json("restore", world.full["backup_id"], "--yes", "--from", "hot")
    job = world.job()
    assert job["bytes_done"] == job["bytes_total"] == world.full["bytes"] == job["summary"]["bytes"], (job, restored)
    assert job["files_done"] == job["files_total"] == world.full["files"] == job["summary"]["files"]
    world.machine.cli("confirm", "latest", "--yes")


def test_verify_by_restoring(world):
    """Everything is made, then everything is compared: one way, and the total is both."""
    job, ended = world.stop_at("compared", (1, 11, 12), "verify", world.full["backup_id"], "--depth", "restore")
    assert job["phase"] == "verify" and job["files_done"] > world.full["files"] and job["bytes_done"] > world.full["bytes"]
    check(world, job, ended, 2 * world.full["bytes"], 2 * world.full["files"])


def test_verify(world):
    """Without the records of the packs, packs are what is counted."""
    packs = world.machine.json("verify", world.full["backup_id"], "--depth", "metadata")["packs"]
    job = world.job()
    assert (job["bytes_total"], job["files_done"], job["files_total"]) == (0, packs, packs) and packs > 1
    world.machine.json("verify", world.full["backup_id"], "--depth", "data")
    job = world.job()
    assert job["files_done"] == job["files_total"] == packs
    assert job["bytes_total"] > sum(SIZES) and 0 <= job["bytes_done"] - job["bytes_total"] < 20000  # small objects come last


def test_databases_alone(world):
    """Files that are not archived are not in the total."""
    world.site.create("two", "--no-include-files")
    job = world.job()
    assert job["bytes_done"] == job["bytes_total"] == world.database


def export(world, wait, **options):
    """(the job with two MiB read, the job at its end)"""
    options = {key: variant("s", value) for key, value in options.items()}
    fd, (path,) = world.bus.stream("OpenBackup", "sa{sv}", [world.full["backup_id"], options])
    with os.fdopen(fd, "rb") as f:
        f.read(MIB)
        time.sleep(wait)
        f.read(MIB)
        job = holdpoint.wait_until(lambda: world.told(path), "progress", 10)
        f.read()
    assert world.bus.wait_job(path, 60)[0] == "done"
    return job, world.job(path)


def test_export(world):
    """To a reader that takes its time: the rate is the reader's."""
    check(world, *export(world, 1.1, path=world.b), BELOW_B, ENTRIES_B)


def test_export_of_a_service(world):
    _, ended = export(world, 0.15, service="one")
    assert ended["bytes_done"] == ended["bytes_total"] == world.one["bytes"]
    assert ended["files_done"] == ended["files_total"] == world.one["files"]
