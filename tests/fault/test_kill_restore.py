"""A restore, a rollback, a confirmation and their recovery, killed at every named step.

The promise: whatever is killed and wherever, all paths of the service are the old trees or all are the
new ones after recovery, what the backup leaves out is still there, and the next run is clean.
"""

import hashlib
import json
import os

import pytest

import holdpoint

RESTORE_STEPS = ["staging-intent", "staging@1", "staging@9", "staged@1", "staged@2", "staged@3", "intent", "moved@1",
                 "carried", "exchanged@1", "exchanged@2", "exchanged@3", "swapped", "settled"]
ROLLBACK_STEPS = ["intent", "moved@1", "carried", "exchanged@1", "exchanged@2", "exchanged@3", "swapped", "settled"]
CONFIRM_STEPS = ["confirming", "removed@1", "removed@2", "removed@3"]
RECOVERY_STEPS = ["recover", "undone@1", "undone@2", "undone@3", "removed@1", "removed@3"]


def digest(path):
    """Names, kinds, modes and content below `path`; one excluded directory is not part of it."""
    found = hashlib.sha256()
    for directory, names, files in os.walk(path):
        names.sort()
        if "cache" in names:
            names.remove("cache")
        for name in sorted(files):
            full = os.path.join(directory, name)
            st = os.lstat(full)
            found.update(("%s %o %d\n" % (os.path.relpath(full, path), st.st_mode, st.st_size)).encode())
            with open(full, "rb") as f:
                found.update(f.read())
    if os.path.isfile(path):
        with open(path, "rb") as f:
            found.update(f.read())
    return found.hexdigest()


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


class Site:
    """One service of a subvolume, a plain directory and a file, each with something that is left out."""

    def __init__(self, fs, machine):
        self.machine = machine
        self.paths = [fs.directory("srv", "data"), os.path.join(fs.path, "srv", "conf"),
                      os.path.join(fs.path, "srv", "site.ini")]
        self.area = os.path.join(fs.path, ".holdpoint")
        self.round = 0
        self.fill("original")
        machine.write_service("site", self.paths, Exclude="cache/**")
        machine.start()
        self.backup = machine.json("create", "site")["backup_id"]
        self.new = self.state()

    def fill(self, what):
        for i in range(12):
            write(os.path.join(self.paths[0], "d%d" % (i % 3), "f%d" % i), what * (i + 1))
        write(os.path.join(self.paths[1], "app.conf"), what)
        write(os.path.join(self.paths[2]), what)
        self.keep = "kept %s" % what
        for tree in self.paths[:2]:
            write(os.path.join(tree, "cache", "sub", "kept"), self.keep)

    def damage(self):
        """A state of its own each time, so that an old one can't be taken for it."""
        self.round += 1
        self.fill("damaged %d " % self.round)
        os.unlink(os.path.join(self.paths[0], "d0", "f0"))
        self.old = self.state()
        assert self.old != self.new

    def state(self):
        return tuple(digest(p) for p in self.paths)

    def check_whole(self):
        """All old or all new, and the excluded files in what is live."""
        assert self.state() in (self.old, self.new), "a mix: %r" % ([p == q for p, q in zip(self.state(), self.old)],)
        for tree in self.paths[:2]:
            with open(os.path.join(tree, "cache", "sub", "kept")) as f:
                assert f.read() == self.keep

    def staged(self):
        return [n for n in os.listdir(self.area) if n.startswith("restore.")]

    def newest(self):
        rows = [r for r in self.machine.json("restores")["restores"] if r["state"] != "failed"]
        return rows[0] if rows else None

    def refresh(self):
        """The agent did not see what --recover did: it asks at its start, as after a boot."""
        self.machine.agent.stop()
        self.machine.agent.start(self.machine.bus)
        holdpoint.wait_until(lambda: not [j for j in self.machine.json("jobs")["jobs"] if j["state"] != "finished"],
                             "the agent's reconciling")

    def settle(self):
        """Confirms what is open, so that the next round begins alone."""
        self.refresh()
        for row in self.machine.json("restores")["restores"]:
            if row["state"] in ("active", "rolled_back", "confirming"):
                self.machine.cli("confirm", row["restore_id"], "--yes")
        assert self.staged() == []


@pytest.fixture(scope="module")
def site(install):
    with holdpoint.LoopFs("btrfs", 1024) as fs, holdpoint.Machine(install) as machine:
        yield Site(fs, machine)


def killed(site, step, *command):
    """Runs a command whose worker dies at `step`, and the agent with it: it would have all recovered itself."""
    site.machine.workers.restart("restore", HOLDPOINT_STEP=step + "=kill")
    done = site.machine.call(*command)
    site.machine.agent.kill()
    site.machine.workers.restart("restore")
    assert done.returncode == 1, "the worker did not die at %s: %s" % (step, done.stdout + done.stderr)


@pytest.mark.parametrize("source", ["hot", "local"])
@pytest.mark.parametrize("step", RESTORE_STEPS)
def test_restore_killed(site, step, source):
    if source == "hot" and step == "staging@9":
        step = "staging@2"  # the subvolume comes as one snapshot: fewer files are made
    site.damage()
    killed(site, step, "restore", site.backup, "--from", source, "--yes")
    done = site.machine.worker_recover()
    assert done.returncode == 0, done.stderr
    site.check_whole()
    if step in ("exchanged@3", "swapped", "settled"):
        assert site.state() == site.new
    else:
        assert site.state() == site.old
    site.damage()
    site.refresh()
    site.machine.cli("restore", site.backup, "--from", source, "--yes")
    assert site.state() == site.new
    site.check_whole()
    site.settle()


@pytest.mark.parametrize("step", ROLLBACK_STEPS)
def test_rollback_killed(site, step):
    site.damage()
    site.machine.cli("restore", site.backup, "--yes")
    restore_id = site.newest()["restore_id"]
    killed(site, step, "rollback", restore_id, "--yes")
    # This time the agent has it recovered, not the boot.
    site.refresh()
    site.machine.cli("rollback", restore_id, "--yes")
    site.check_whole()
    before = site.state()
    site.machine.cli("rollback", restore_id, "--yes")
    site.check_whole()
    assert site.state() != before
    site.settle()


@pytest.mark.parametrize("step", CONFIRM_STEPS)
def test_confirm_killed(site, step):
    site.damage()
    site.machine.cli("restore", site.backup, "--yes")
    killed(site, step, "confirm", site.newest()["restore_id"], "--yes")
    done = site.machine.worker_recover()
    assert done.returncode == 0, done.stderr
    assert site.state() == site.new
    assert site.staged() == []
    site.refresh()


@pytest.mark.parametrize("step", RECOVERY_STEPS)
def test_recovery_killed(site, step):
    """Killed, killed again while it recovers, and again: it converges."""
    site.damage()
    killed(site, "exchanged@2", "restore", site.backup, "--yes")
    for _ in range(2):
        done = site.machine.worker_recover(HOLDPOINT_STEP=step + "=kill")
        assert done.returncode in (-9, 0)
    done = site.machine.worker_recover()
    assert done.returncode == 0, done.stderr
    assert site.state() == site.old
    site.check_whole()
    assert site.staged() == []
    site.refresh()


def test_agent_killed(site):
    """The agent dies under a restore: the worker stops at a safe point or ends its swap."""
    site.damage()
    site.machine.workers.restart("restore", HOLDPOINT_STEP="intent=stop")
    job = site.machine.json("restore", site.backup, "--yes", "--no-wait")
    assert job["restore_id"]
    holdpoint.wait_until(lambda: any("restore" in open(os.path.join(site.machine.worker_state, "intents", n)).read()
                                     and '"swapping"' in open(os.path.join(
                                         site.machine.worker_state, "intents", n)).read()
                                     for n in os.listdir(os.path.join(site.machine.worker_state, "intents"))
                                     if n.endswith(".json")), "the intent")
    site.machine.agent.kill()
    for pid in site.machine.workers.pids():
        os.kill(pid, 18)
    holdpoint.wait_until(lambda: not site.machine.workers.pids(), "the worker's end")
    site.machine.agent.start(site.machine.bus)
    site.machine.workers.restart("restore")
    assert site.machine.worker_recover().returncode == 0
    site.check_whole()
    site.settle()


def test_lost_worker_is_recovered_by_the_agent(site):
    """Nobody does anything: the agent notices that a worker died in a swap, and has it undone."""
    site.damage()
    site.machine.workers.restart("restore", HOLDPOINT_STEP="exchanged@2=kill")
    assert site.machine.call("restore", site.backup, "--yes").returncode == 1
    holdpoint.wait_until(lambda: site.state() == site.old, "the recovery")
    holdpoint.wait_until(lambda: site.staged() == [], "the removal of what was staged")
    holdpoint.wait_until(lambda: site.machine.json("restores")["restores"][0]["state"] == "failed", "its row")
    site.machine.workers.restart("restore")
    site.check_whole()


def test_unknown_tree_is_left_alone(site):
    """What is neither the old nor the new tree is not touched, and that is said."""
    site.damage()
    killed(site, "exchanged@1", "restore", site.backup, "--yes")
    moved = site.paths[2] + ".aside"
    os.rename(site.paths[2], moved)
    write(site.paths[2], "somebody else's")
    done = site.machine.worker_recover()
    assert done.returncode != 0
    assert site.paths[2] in done.stderr
    with open(site.paths[2]) as f:
        assert f.read() == "somebody else's"
    # What is live is a mix now: it must not become a backup.
    other = os.path.join(os.path.dirname(site.paths[0]), "other")
    write(os.path.join(other, "file"), "other")
    site.machine.write_service("other", other)
    site.machine.agent.start(site.machine.bus)
    refused = site.machine.call("create", "site")
    assert refused.returncode == 6 and "was cut off" in refused.stderr, refused.stderr
    # Nor may it cost the others theirs.
    without = site.machine.json("create", "full", exit_code=3)
    assert (without["status"], without["services"]) == ("partial", ["other"])
    assert json.loads(without["metadata"])["refused"] == ["site"]
    os.unlink(os.path.join(site.machine.etc, "services.d", "other.conf"))
    site.machine.reload()
    os.rename(moved, site.paths[2])
    assert site.machine.worker_recover().returncode == 0
    assert site.state() == site.old
    site.settle()
