"""What the command line does with the real agent and real workers, where the other tests have one of them alone."""

import json
import os
import queue
import subprocess
import threading

import pytest

import holdpoint
import sites


@pytest.fixture(scope="module")
def site(install):
    with sites.open_site(install) as s:
        s.top = s.fs.subvolume("app")
        sites.sql(os.path.join(s.top, "app.db"), "pragma journal_mode=wal; create table t(n); insert into t values (1)")
        for name in ("one", "two"):
            write(s, name, "first")
        s.service("app", s.top)
        yield s


def write(site, name, text):
    with open(os.path.join(site.top, name), "w") as f:
        f.write(text)


def read(site, name):
    with open(os.path.join(site.top, name)) as f:
        return f.read()


def rows(site):
    return sites.sql(os.path.join(site.top, "app.db"), "select count(*) from t")


class Monitor:
    """holdpoint monitor --json; events() are those since it was asked last, up to one that is wanted."""

    def __init__(self, machine):
        self.lines = queue.Queue()
        environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=machine.bus.address, LC_ALL="C.UTF-8")
        self.process = subprocess.Popen([machine.install.cli, "monitor", "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env=environment)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))

    def until(self, wanted):
        found = []
        while not found or not wanted(found[-1]):
            found.append(self.lines.get(timeout=30))
        return found

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        holdpoint.stop_process(self.process)


def test_monitor(site):
    """Everything that happens, in its order, until the agent goes."""
    m = site.machine
    with Monitor(m) as monitor:
        while monitor.lines.empty():  # it watches from some moment on
            m.call("repository")
        m.call("doctor")
        number = monitor.until(lambda e: e["signal"] == "JobNew" and e["args"][2] == "diagnose")[-1]["args"][0]
        monitor.until(lambda e: e["signal"] == "JobRemoved" and e["args"][0] == number)
        backup = m.json("create", "app")["backup_id"]
        found = monitor.until(lambda e: e["signal"] == "JobRemoved")
        number, path = found[0]["args"][:2]
        assert [e["signal"] for e in found] == ["JobNew", "BackupAdded", "JobRemoved"]
        assert found[0]["args"][2:] == ["backup", backup] and path == "/org/holdpoint/Backup1/job/_%d" % number
        assert found[1]["args"] == [backup]
        assert found[2]["args"][:3] == [number, path, "done"] and found[2]["args"][3]["consistency"] == "application"
        m.cli("delete", backup, "--yes")
        found = monitor.until(lambda e: e["signal"] == "JobRemoved")
        assert [e["signal"] for e in found] == ["JobNew", "BackupRemoved", "JobRemoved"] and found[1]["args"] == [backup]
        m.agent.stop()
        assert monitor.process.wait(20) == 9
        assert "went away" in monitor.process.stderr.read()
    m.agent.start(m.bus)


def test_paths_in_place(site):
    """One file and the database come back; what else has changed since stays; and it can be undone."""
    m = site.machine
    backup = site.create("app")["backup_id"]
    for name in ("one", "two"):
        write(site, name, "second")
    sites.sql(os.path.join(site.top, "app.db"), "insert into t values (2)")
    for source in ("hot", "local"):
        done = m.json("restore", backup, "--path", "one", "--path", os.path.join(site.top, "app.db"), "--from", source, "--yes")
        assert (done["result"], done["method"], done["from"]) == ("done", "files", source)
        assert (read(site, "one"), read(site, "two"), rows(site)) == ("first", "second", "1")
        m.cli("rollback", done["restore_id"], "--yes")
        assert (read(site, "one"), read(site, "two"), rows(site)) == ("second", "second", "2")
    m.cli("rollback", "latest", "--yes")
    m.cli("confirm", "latest", "--yes")
    assert (read(site, "one"), read(site, "two"), rows(site)) == ("first", "second", "1")
    assert m.call("restore", backup, "--path", "nothing", "--yes").returncode == 1


def test_without_the_private_key(site, tmp_path):
    """What needs it says so, takes it for this once, and no other; pins, lists and checks go on."""
    m, key, other = site.machine, str(tmp_path / "key"), str(tmp_path / "other")
    backup = site.create("app")["backup_id"]
    m.cli("key", "export-recovery", "-o", key)
    m.cli("key", "prove", key)
    m.cli("key", "forget-private", "--yes")
    holdpoint.run("openssl", "genpkey", "-algorithm", "X25519", "-out", other)
    for verb, flag in (("pin", True), ("unpin", False)):
        assert m.json(verb, backup)["pinned"] is flag
        assert m.json("show", backup)["pinned"] is flag
    m.cli("verify", backup)
    for arguments in (["verify", backup, "--depth", "restore"], ["export", backup, "-o", str(tmp_path / "a.tar")],
                      ["restore", backup, "--path", "one", "--from", "local", "--yes"]):
        done = m.call(*arguments, "--json")
        assert (done.returncode, json.loads(done.stdout)["error"]["name"]) == (1, "KeyMissing"), arguments
        assert m.call(*arguments, "--key", other).returncode == 1, arguments
        m.cli(*arguments, "--key", key)
    row = m.json("show", backup)
    assert (row["verified_depth"], row["verified_result"]) == ("restore", "sound")
    assert not os.path.exists(os.path.join(m.etc, "keys", "private.pem"))
    assert site.create("app")["status"] == "completed"
