"""Prune killed at each step and in each kind of call, and with calls that fail.

The promise: whatever happens to it, every backup that was there stays whole, no backup goes that retention
keeps, and the next prune takes away what this one has left."""

import os

import pytest

import holdpoint
import upkeepsite
import worker

STEPS = ["marked", "record-deleted", "condemned", "rows-forgotten", "pack-unlinked@1", "pack-unlinked@2",
         "session-deleted"]


@pytest.fixture(scope="module")
def site(install):
    with holdpoint.Machine(install) as machine:
        s = upkeepsite.Site(machine)
        s.start()
        s.write("always", os.urandom(200000))
        s.create()
        # One that needs what another one had brought, which is gone.
        s.write("shared", os.urandom(900000))
        gone = s.create()
        s.write("own", os.urandom(2000))
        s.create()
        s.delete(gone)
        yield s


def litter(site):
    """Packs and a session that nobody needs any more."""
    for name, size in (("large", 1500000), ("small", 1000)):
        site.write(name, os.urandom(size))
    gone = site.create()
    for name in ("large", "small"):
        os.unlink(os.path.join(site.data, name))
    site.delete(gone)


def settle(site):
    """After whatever has happened: all is whole, and the next prune leaves nothing of it."""
    site.check(verify=False)
    site.prune()
    site.check(verify=False)
    assert len(site.files("sessions")) == 3  # of those that are left, and of the one whose content one of them has
    assert not [n for n in site.files("") if ".tmp-" in n]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(site, step):
    litter(site)
    if step == "record-deleted":  # the step of a deletion, which prune repeats for each record that expires
        gone = site.create()
        site.machine.workers.restart("maintain", HOLDPOINT_STEP=step + "=kill")
        with pytest.raises(worker.Lost):
            site.maintain("delete", backup_id=gone)
        del site.expected[gone]
    else:
        site.machine.workers.restart("maintain", HOLDPOINT_STEP=step + "=kill")
        with pytest.raises(worker.Lost):
            site.maintain("prune", dry_run=False)
    site.machine.workers.restart("maintain")
    settle(site)


# (call, every how many times): from the first on, until a prune makes no such call any more.
KILLS = [("unlinkat", 1), ("flock", 3), ("fsync", 1), ("fdatasync", 1), ("renameat", 1), ("pwrite64", 9), ("openat", 73)]


@pytest.mark.parametrize("call, every", KILLS)
def test_killed_in_a_call(site, call, every):
    when = 1
    while when < 2000:
        litter(site)
        with site.wrapped("maintain", "-e", "trace=" + call, "-e",
                          "inject=%s:signal=KILL:when=%d" % (call, when)) as happened:
            try:
                site.maintain("prune", dry_run=False)
            except worker.Lost:
                pass
            killed = happened()
        settle(site)
        if not killed:
            break
        when += every
    assert when < 2000


FAILURES = [("unlinkat", "EIO", 1), ("fsync", "EIO", 1), ("pwrite64", "ENOSPC", 5), ("pwrite64", "EIO", 11),
            ("pread64", "EIO", 23), ("openat", "EIO", 83)]


LOADER = 40  # so many calls of a kind the loader may make: if one fails there is no worker


@pytest.mark.parametrize("call, error, every", FAILURES)
def test_call_fails(site, call, error, every):
    when = 1
    while when < 2000:
        litter(site)
        with site.wrapped("maintain", "-e", "trace=" + call, "-e",
                          "inject=%s:error=%s:when=%d" % (call, error, when)) as happened:
            try:
                done = site.maintain("prune", dry_run=False).result == "done"
            except worker.Lost:
                assert when <= LOADER  # before main()
                done = False
            failed = happened()
        assert failed or done
        settle(site)
        if not failed:
            break
        when += every
    assert when < 2000
