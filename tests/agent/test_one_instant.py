"""Every backup is one instant: all databases and the files their rows name, across owners and subvolumes.

The writers and the oracle are those of tests/lib/stores.py. The same harness has to fail when the worker
skips the hold; otherwise it would prove nothing.
"""

import os
import shutil
import time

import holdpoint
import pytest
import stores

# HOLDPOINT_POINTS=20 ./run test agent: fewer while something else is looked at.
POINTS = int(os.environ.get("HOLDPOINT_POINTS", "200"))
ROWS = ((0, "wal"), (65534, "delete"), (33, "wal"), (1, "delete"))


@pytest.fixture
def four(machine):
    """Four stores of four owners in four subvolumes, two services of two paths each."""
    with holdpoint.LoopFs("btrfs", 2048) as fs:
        made = [stores.Store("store%d" % n, fs.subvolume("store%d" % n), uid, journal).create()
                for n, (uid, journal) in enumerate(ROWS)]
        machine.write_service("first", [made[0].root, made[1].root])
        machine.write_service("second", [made[2].root, made[3].root])
        try:
            yield made
        finally:
            machine.stop()


def extract(machine, backup_id, made):
    """Restores aside, from the repository, and returns the stores there."""
    output = os.path.join(machine.directory, "out")
    machine.json("restore", backup_id, "--into", output, "--from", "local")
    found = [s.at(os.path.join(output, "first" if n < 2 else "second") + s.root) for n, s in enumerate(made)]
    return output, found


def take_points(machine, made, count):
    """Backs up `count` times and looks into each backup. Returns (backups, what was torn)."""
    backups, torn = [], []
    for _ in range(count):
        backup = machine.json("create", "full")
        assert backup["status"] == "completed", backup
        backups.append(backup)
        output, found = extract(machine, backup["backup_id"], made)
        problem = stores.judge([s.state() for s in found])
        if problem is None:
            problem = next((d for s in found for d in s.disagreements()), None)
        if problem:
            torn.append("%s: %s" % (backup["backup_id"], problem))
        shutil.rmtree(output)
    return backups, torn


@pytest.mark.slow
def test_every_backup_is_one_instant(machine, four, record_property):
    machine.start()
    began = time.monotonic()
    with stores.Ring(four, noise=True) as ring:
        machine.json("create", "full")
        backups, torn = take_points(machine, four, POINTS)
        rounds = ring.rounds()
        ring.stop()
        waits = stores.percentiles(ring.waits())
    pauses = stores.percentiles([b["pause_usec"] / 1e6 for b in backups])
    record_property("points", "%d in %.0f s; %d rounds" % (POINTS, time.monotonic() - began, rounds))
    record_property("pause", "whole hold p50 %.1f p99 %.1f max %.1f ms" % pauses)
    record_property("waits", "writers p50 %.1f p99 %.1f max %.1f ms" % waits)
    assert torn == []
    assert {b["consistency"] for b in backups} == {"application"}
    assert rounds > POINTS, "the writers hardly wrote"


@pytest.mark.slow
def test_without_the_hold_the_harness_fails(machine, four):
    machine.start(HOLDPOINT_TEST_NO_HOLD="1")
    with stores.Ring(four, noise=True) as ring:
        for _ in range(12):
            _, torn = take_points(machine, four, 5)
            if torn:
                break
        ring.stop()
    assert torn, "60 points without the hold were all whole: this harness shows nothing"


def test_the_oracle():
    assert stores.judge([(7, 7), (7, 7)]) is None
    assert stores.judge([(7, 7), (6, 7)]) is None
    assert stores.judge([(6, 7), (6, 6)]) is None
    assert stores.judge([(7, 7), (6, 6), (6, 6)]) is None
    assert stores.judge([(7, 6), (6, 6)]), "a row without its file"
    assert stores.judge([(6, 6), (7, 7)]), "the second store is ahead"
    assert stores.judge([(8, 8), (6, 6)]), "two rounds apart"
