"""A backup killed at every named step: no backup is listed that is not whole, nothing is left behind
after the next run, earlier backups stay good, and the service is not harmed."""

import os

import pytest

import holdpoint

STEPS = ["before-hold", "held", "released", "point-taken", "sealed", "walk@1", "walk@20", "stored", "before-record",
         "committed"]


@pytest.fixture(scope="module")
def site(install):
    with holdpoint.LoopFs("btrfs", 1024) as fs, holdpoint.Machine(install) as machine:
        data = fs.directory("data")
        holdpoint.run("sqlite3", os.path.join(data, "app.db"),
                      "pragma journal_mode=wal; create table t(n); insert into t values (1);")
        for i in range(40):
            with open(os.path.join(data, "f%02d" % i), "w") as f:
                f.write("content %d\n" % i * 100)
        machine.write_service("app", data)
        machine.start()
        machine.data, machine.area = data, os.path.join(fs.path, ".holdpoint")
        machine.first = machine.json("create", "app")["backup_id"]
        yield machine


def hot_copies(site):
    return sorted(n for n in os.listdir(site.area) if n.startswith("hot."))


@pytest.mark.parametrize("step", STEPS)
def test_backup_killed(site, step):
    with open(os.path.join(site.data, "f00"), "a") as f:
        f.write("more before %s\n" % step)
    before = {b["backup_id"] for b in site.json("list", "--status", "completed")["backups"]}
    site.workers.restart("backup", HOLDPOINT_STEP=step + "=kill")
    done = site.call("create", "app")
    site.workers.restart("backup")
    assert done.returncode == 1, done.stdout + done.stderr
    # The writers go on at once: a lock died with its holder.
    holdpoint.run("sqlite3", "-cmd", ".timeout 2000", os.path.join(site.data, "app.db"), "insert into t values (2);")
    after = site.json("create", "app")
    assert after["status"] == "completed" and after["result"] == "done"
    listed = {b["backup_id"] for b in site.json("list", "--status", "completed")["backups"]}
    expected = before | {after["backup_id"]}
    if step == "committed":
        # The record is there: the backup is whole, and reconciling finds it.
        assert listed > expected and len(listed) == len(expected) + 1
    else:
        assert listed == expected
    for backup in (site.first, after["backup_id"]):
        site.cli("verify", backup, "--depth", "data")
    assert len(hot_copies(site)) <= 3
    hot = [b for b in site.json("list", "--limit", 500)["backups"] if "hot" in b["copies"]]
    assert len(hot_copies(site)) == len(hot)
    packs = [n for d, _, names in os.walk(os.path.join(site.repository, "packs")) for n in names]
    assert not [n for n in packs if n.startswith(".tmp")]


def test_helper_killed_while_it_holds(site):
    """The helper dies under the hold: the backup says that it is only crash-consistent."""
    site.workers.restart("backup", HOLDPOINT_STEP="held=stop")
    job = site.json("create", "app", "--no-wait")
    worker = holdpoint.wait_until(lambda: [p for p in site.workers.pids() if stopped(p)], "the step")
    helper = [p for p in site.workers.pids() if "holdpoint-sqlite" in command(p)]
    assert helper
    for pid in helper:
        os.kill(pid, 9)
    holdpoint.wait_until(lambda: not any(map(command, helper)), "the helper's end")
    os.kill(worker[0], 18)
    backup = holdpoint.wait_until(lambda: finished(site, job["backup_id"]), "the backup", 30)
    site.workers.restart("backup")
    assert backup["status"] == "completed" and backup["consistency"] == "crash"


def command(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return f.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def stopped(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def finished(site, backup_id):
    backup = site.json("show", backup_id)
    return backup if backup["status"] != "running" else None
