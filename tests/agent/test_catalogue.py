"""The agent's catalogue gone, cut short, damaged, of another day or of another machine: what it says is what the
repository says, once the agent has started."""

import contextlib
import os
import re
import shutil

import pytest

import holdpoint
import sites

FILES = ("catalogue.db", "catalogue.db-wal", "catalogue.db-shm")


@pytest.fixture(scope="module")
def site(install):
    with sites.open_site(install) as s:
        path = s.fs.subvolume("app")
        with open(os.path.join(path, "f"), "wb") as f:
            f.write(os.urandom(100000))
        s.service("app", path)
        yield s


def save(site, name):
    """A copy of the catalogue as a backup of the machine takes it."""
    top = os.path.join(site.machine.directory, name)
    os.mkdir(top)
    for n in FILES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(os.path.join(site.machine.state, n), top)
    return top


def put(site, source, names=FILES):
    for n in names:
        path = os.path.join(site.machine.state, n)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if os.path.exists(os.path.join(source, n)):
            shutil.copy2(os.path.join(source, n), path)
            shutil.chown(path, holdpoint.AGENT_USER)


def said(site):
    """That something was corrected, since the agent was started."""
    with open(site.machine.agent_log) as f:
        return re.search(r"The catalogue was not what|is no longer in the repository", f.read().rpartition("Running with ")[2])


def check(site, corrected=True):
    """Starts the agent; rows and records agree, of restores too, and work goes on."""
    m = site.machine
    m.agent.start(m.bus)

    def agree():
        rows = m.json("list", "--limit", "500")["backups"]
        return {b["backup_id"] for b in rows if b["status"] == "completed"} == set(site.records())

    holdpoint.wait_until(agree, "a catalogue that says what the repository says", 30)
    holdpoint.wait_until(lambda: said(site) or not corrected, "a line about it", 10)
    intents = {n[:36] for n in os.listdir(os.path.join(m.worker_state, "intents")) if n.endswith(".json")}
    # Of those that nobody knows any more only history is left.
    holdpoint.wait_until(lambda: {r["restore_id"] for r in m.json("restores")["restores"]
                                  if r["state"] not in ("confirmed", "failed")} == intents, "restores", 30)
    assert site.create("app")["status"] == "completed"


def damage(path, how):
    if not os.path.exists(path):
        return
    size = os.path.getsize(path)
    if how == "gone":
        os.unlink(path)
    elif how in ("short", "empty"):
        os.truncate(path, size // 2 if how == "short" else 0)
    else:
        with open(path, "r+b") as f:
            f.seek(size // 3)
            f.write(os.urandom(min(9000, size - size // 3)))


def test_lost_and_older(site):
    m = site.machine
    first = site.create("app")["backup_id"]
    m.json("restore", first, "--yes")
    site.create("app")
    m.agent.stop()
    older = save(site, "older")
    check(site, corrected=False)
    assert not said(site)
    m.json("delete", first, "--yes")
    m.json("prune", "--yes")
    for kill in (False, True):  # a kill leaves the log
        for what, how in ((FILES, "gone"), (FILES[:1], "gone"), (FILES[:1], "short"), (FILES[:1], "empty"),
                          (FILES[:1], "garbage"), (FILES[1:2], "short"), (FILES[1:2], "garbage"),
                          (FILES[:1], "older"), (FILES[1:2], "older"), (FILES, "older")):
            (m.agent.kill if kill else m.agent.stop)()
            if how == "older":
                put(site, older, what)
            else:
                for name in what:
                    damage(os.path.join(m.state, name), how)
            check(site, corrected=what is FILES)


def test_of_another_machine(site, install):
    with sites.open_site(install, size_mib=512) as other:
        other.service("app", other.fs.subvolume("app"))
        foreign = other.create("app")["backup_id"]
        other.machine.json("restore", foreign, "--yes")
        other.machine.agent.stop()
        site.machine.agent.stop()
        put(site, other.machine.state)
        check(site)
        assert site.machine.call("show", foreign).returncode == 5


CACHES = {"index": ("index.db", "index.db-wal", "index.db-shm"), "base": ("base/app", "base/app.databases"),
          "all": ("index.db", "index.db-wal", "index.db-shm", "index.seal", "base/app", "base/app.databases", "hot", "verified")}


def spoil(site, older, caches, how):
    """The worker's caches, all in one way: gone, cut short, or those of another day."""
    for name in CACHES[caches]:
        path, source = os.path.join(site.machine.worker_state, name), os.path.join(older, name)
        if how == "short":
            for top, _, names in os.walk(path) if os.path.isdir(path) else [(os.path.dirname(path), [], [os.path.basename(path)])]:
                for n in names:
                    damage(os.path.join(top, n), "short")
            continue
        (shutil.rmtree if os.path.isdir(path) else lambda p: os.path.exists(p) and os.unlink(p))(path)
        if how == "older" and os.path.exists(source):
            (shutil.copytree if os.path.isdir(source) else shutil.copy2)(source, path)


@pytest.mark.parametrize("how", ["gone", "short", "older"])
def test_together_with_what_the_workers_remember(site, how):
    """The agent's copy and the workers' caches are wrong at once: both are put right, and nothing is stored again."""
    m = site.machine
    site.create("app")
    m.agent.stop()
    older = os.path.join(save(site, "older-" + how), "worker-state")
    shutil.copytree(m.worker_state, older)
    m.agent.start(m.bus)
    with open(os.path.join(site.fs.path, "app", "f-" + how), "wb") as f:
        f.write(os.urandom(300000))
    verified = site.create("app")["backup_id"]
    m.cli("verify", verified)
    for caches in CACHES:
        m.agent.stop()
        if how == "older":
            put(site, os.path.dirname(older))
        else:
            for name in FILES:
                damage(os.path.join(m.state, name), how)
        spoil(site, older, caches, how)
        check(site)
        backup = site.create("app")
        assert (backup["read_bytes"], backup["new_bytes"] < 65536) == (0, True)
        assert backup["checksum"] == m.json("show", verified)["checksum"]
        for one in (verified, backup["backup_id"]):
            m.cli("verify", one, "--depth", "data")
        first, second = m.json("list", "--limit", "2")["backups"]
        assert first["backup_id"] == backup["backup_id"] and second["new_bytes"] < 65536, "the run that put it right stored nothing again"
