"""`holdpoint doctor`: what is wrong is found and named, what is right is not complained about, nothing is changed."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess

import pytest

import busclient
import fakeclock
import holdpoint
import worker
from test_bad_input_repository import in_place_of, resealed, with_setting

SEVERITIES = {"ok": "ok", "note": "notes", "warning": "warnings", "error": "errors"}
ORDINARY = "games"


@pytest.fixture(scope="module")
def install():
    with holdpoint.Install() as programs:
        yield programs


@pytest.fixture(scope="module")
def btrfs():
    with holdpoint.LoopFs("btrfs", 512) as fs:
        yield fs


@pytest.fixture(scope="module")
def ext4():
    with holdpoint.LoopFs("ext4", 64) as fs:
        yield fs


def database(path, wal=True, uid=None):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    connection = sqlite3.connect(path)
    if wal:
        connection.execute("pragma journal_mode=wal")
    connection.execute("create table t(x)")
    connection.commit()
    connection.close()
    if uid is not None:
        os.chown(path, uid, uid)
        os.chown(os.path.dirname(path), uid, uid)


class Site:
    def __init__(self, machine, fs, name):
        self.machine, self.fs = machine, fs
        self.path = fs.subvolume(name, "app")
        database(os.path.join(self.path, "data", "a.db"), uid=5)
        database(os.path.join(self.path, "data", "b.db"), wal=False, uid=5)
        machine.write_service("app", self.path)

    def report(self):
        """The whole report, its sums and its exit code checked."""
        done = self.machine.call("doctor", "--json")
        report = holdpoint.json.loads(done.stdout)
        for severity, count in SEVERITIES.items():
            assert report[count] == sum(f["severity"] == severity for f in report["findings"]), count
        worst = [s for s in reversed(SEVERITIES) if report[SEVERITIES[s]]][0]
        assert report["worst"] == worst and report["left_out"] == 0
        assert done.returncode == {"error": 1, "warning": 3}.get(worst, 0), done.stderr
        for f in report["findings"]:
            assert sorted(f) == ["check", "remedy", "service", "severity", "subject", "text"]
            assert f["check"] and f["subject"] and f["text"] and f["severity"] in SEVERITIES
            assert f["severity"] != "ok" or not f["remedy"]
        return report

    def found(self, check, service=None):
        """Those of one check as (severity, subject, text)."""
        return [(f["severity"], f["subject"], f["text"]) for f in self.report()["findings"]
                if f["check"] == check and service in (None, f["service"])]

    def bad(self):
        return {(f["severity"], f["check"], f["service"]) for f in self.report()["findings"]
                if f["severity"] in ("warning", "error")}

    def schedule(self, kind="full", name="nightly"):
        """As the worker writes it; there is no systemd here to ask about it."""
        directory = os.path.join(self.machine.units, "holdpoint@%s.timer.d" % name)
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "50-holdpoint.conf"), "w") as f:
            f.write("[X-Holdpoint]\nType=%s\nRetentionDays=30\n\n[Timer]\nOnCalendar=\nOnCalendar=*-*-* 02:00\n" % kind)


@pytest.fixture
def site(install, btrfs, request):
    name = request.node.name.replace("/", "-")
    with holdpoint.Machine(install=install) as machine:
        s = Site(machine, btrfs, name)
        machine.start()
        yield s


def test_from_the_first_day_to_a_good_one(site):
    """Each remedy is followed as it is written, until there is nothing left to say."""
    assert site.bad() == {("warning", "service.backup", "app"), ("warning", "schedule", "")}
    assert site.found("service.databases") == [("ok", "app", "2 databases (1 WAL, 1 rollback journal), of games")]
    site.machine.cli("create", "app")
    assert site.bad() == {("warning", "service.verified", "app"), ("warning", "schedule", ""), ("warning", "keys.recovery", "")}
    site.machine.cli("verify", "latest", "--service", "app", "--depth", "restore")
    key = os.path.join(site.machine.directory, "recovery.pem")
    site.machine.cli("key", "export-recovery", "--output", key)
    assert "never proven" in site.found("keys.recovery")[0][2]
    site.machine.cli("key", "prove", key)
    site.schedule()
    assert site.bad() == set()
    assert site.machine.call("doctor").returncode == 0
    # A key that is gone is a note: it was meant so.
    site.machine.cli("key", "forget-private", "--yes")
    assert [f[0] for f in site.found("keys.private")] == ["note"] and site.bad() == set()
    text = site.machine.call("doctor").stdout
    assert "NOTES (2)" in text and "ERRORS" not in text and "\n    -> have the recovery key at hand" in text


def test_nothing_is_changed(site):
    site.machine.cli("create", "app")

    def state():
        found = []
        for top in (site.fs.path, site.machine.etc, site.machine.worker_state, site.machine.repository):
            for directory, names, files in os.walk(top):
                found += [os.path.join(directory, n) for n in names + files]
        listed = subprocess.run(["btrfs", "subvolume", "list", site.fs.path], capture_output=True, text=True, check=True).stdout
        return sorted(found), sorted(line.split(" path ")[1] for line in listed.splitlines())
    site.report()  # makes what is made once: directories of the worker's state
    before = state()
    site.report()
    assert state() == before


def test_services(site, ext4):
    """One of each kind, side by side: what is wrong with one is not said of another."""
    m, fs = site.machine, site.fs
    top = os.path.dirname(site.path)

    def make(*names):
        path = os.path.join(top, *names)
        os.makedirs(path)
        return path
    m.write_service("gone", os.path.join(top, "gone"))
    m.write_service("inside", make("inside"))
    m.write_service("auto", ext4.directory("auto"))
    m.write_service("meant", ext4.directory("meant"), Snapshot="none")
    m.write_service("wished", ext4.directory("wished"), Snapshot="btrfs")
    m.write_service("listed", make("listed"), Database=os.path.join(top, "listed", "no.db"), Databases=[])
    m.write_service("units", make("units"), Unit="x.service")
    nested = fs.subvolume(os.path.relpath(top, fs.path), "nested")
    fs.subvolume(os.path.relpath(nested, fs.path), "below")
    m.write_service("nested", nested)
    database(os.path.join(make("owned"), "open", "root.db"), uid=5)
    os.chown(os.path.join(top, "owned", "open", "root.db"), 0, 0)
    m.write_service("owned", os.path.join(top, "owned"))
    foreign = fs.subvolume(os.path.relpath(top, fs.path), "foreign")
    os.mkdir(os.path.join(foreign, ".holdpoint"))
    os.chown(os.path.join(foreign, ".holdpoint"), 5, 5)
    m.write_service("foreign", fs.subvolume(os.path.relpath(foreign, fs.path), "data"))
    m.write_service("broken-link", os.path.join(top, "link"))
    os.symlink(make("there"), os.path.join(top, "link"))
    m.write_service("mount", make("mount"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", make("mount", "below")], check=True)
    try:
        m.reload()
        by = {}
        for f in site.report()["findings"]:
            if f["service"] and f["severity"] != "ok" and f["check"] not in ("service.backup", "service.databases"):
                by.setdefault(f["service"], []).append((f["severity"], f["check"], f["subject"], f["text"]))
    finally:
        subprocess.run(["umount", os.path.join(top, "mount", "below")], check=True)
    short = {service: sorted(f[:2] for f in rows) for service, rows in by.items()}
    inside = ("note", "service.snapshot")  # a directory in a larger subvolume
    assert short == {
        "gone": [("error", "service.path")],
        "inside": [inside],
        "auto": [("warning", "service.snapshot")],
        "meant": [("note", "service.snapshot")],
        "wished": [("error", "service.snapshot")],
        "listed": [inside],
        "units": [("error", "service.units"), inside],
        "nested": [("error", "service.nested")],
        "owned": [inside, ("warning", "service.database-owner")],
        "foreign": [("error", "service.snapshot")],
        "broken-link": [("error", "service.snapshot")],
        "mount": [inside, ("warning", "service.nested")],
    }
    assert by["owned"][1][2].endswith("/open/root.db") and "after a crash" in by["owned"][1][3]
    assert "uid 5" in by["foreign"][0][3] and "symbolic link" in by["broken-link"][0][3]
    assert "does not lie on btrfs" in by["wished"][0][3] and "below is a nested subvolume" in by["nested"][0][3]
    assert [(s, t) for s, _, t in site.found("service.databases", "listed")][0][0] == "error"
    assert site.found("service.databases", "inside")[0][0] == "note"
    assert site.found("agent.configuration") == []


def test_a_mount_itself(site, ext4):
    """What cannot be exchanged is said before it is needed."""
    site.machine.write_service("whole", ext4.path, Exclude="lost+found/**")
    site.machine.reload()
    severity, subject, text = site.found("service.restore", "whole")[0]
    assert (severity, subject) == ("warning", ext4.path) and "mount" in text


def test_a_full_disk(site, ext4):
    path = ext4.directory("filled")
    site.machine.write_service("filled", path)
    site.machine.reload()
    assert site.found("service.space", "filled")[0][0] == "ok"
    with open(os.path.join(path, "fill"), "wb") as f:
        space = os.statvfs(path)
        os.posix_fallocate(f.fileno(), 0, int(space.f_bavail * 0.95) * space.f_bsize)
        severity, _, text = site.found("service.space", "filled")[0]
        assert severity == "warning" and text.endswith("MiB free")
        space = os.statvfs(path)
        os.posix_fallocate(f.fileno(), 0, os.fstat(f.fileno()).st_size + int(space.f_bavail * 0.9) * space.f_bsize)
    assert site.found("service.space", "filled")[0][0] == "error"
    os.unlink(os.path.join(path, "fill"))


def test_configuration(site):
    """Broken under a running agent; not reloaded; not to be read by the agent."""
    file = os.path.join(site.machine.etc, "services.d", "app.conf")
    with open(file) as f:
        good = f.read()
    with open(file, "a") as f:
        f.write("Colour=blue\n")
    report = site.report()
    error, = [f for f in report["findings"] if f["check"] == "configuration"]
    assert error["severity"] == "error" and error["text"].startswith("%s:3: " % file) and "--check-config" in error["remedy"]
    assert "services" not in report
    assert {"state", "keys.recovery", "schedule"} <= {f["check"] for f in report["findings"]}  # the rest goes on
    with open(file, "w") as f:
        f.write(good)
    site.machine.write_service("new", os.path.dirname(site.path))
    os.rename(os.path.join(site.machine.etc, "services.d", "new.conf"), file)
    site.machine.write_service("other", site.path + "/data")
    os.unlink(os.path.join(site.machine.etc, "services.d", "other.conf"))
    assert site.found("agent.configuration") == []  # the same services, as far as the agent tells
    site.machine.write_service("more", site.machine.directory + "/srv")
    assert site.found("agent.configuration")[0][0] == "error"
    site.machine.reload()
    assert site.found("agent.configuration") == []
    os.chmod(file, 0o600)
    assert [f[:2] for f in site.found("configuration.permissions")] == [("error", file)]
    shutil.rmtree(os.path.join(site.machine.etc, "services.d"))
    os.mkdir(os.path.join(site.machine.etc, "services.d"))
    assert site.found("configuration.services")[0][0] == "warning"


def test_permissions(site):
    m = site.machine
    m.cli("create", "app")
    secret, keys = os.path.join(m.etc, "keys", "host.secret"), os.path.join(m.etc, "keys")
    os.chmod(secret, 0o644)
    os.chmod(keys, 0o755)
    os.chmod(m.repository, 0o755)
    assert [f[:2] for f in site.found("keys.permissions")] == [("error", keys), ("error", secret)]
    assert [f[:2] for f in site.found("repository.permissions")] == [("error", m.repository)]
    os.chmod(secret, 0o600)
    os.chmod(keys, 0o700)
    os.chmod(m.repository, 0o700)
    assert site.found("keys.permissions") == [] and site.found("repository.permissions") == []
    os.chmod(m.worker_state, 0o777)
    assert site.found("state")[0][0] == "error"
    os.chmod(m.worker_state, 0o700)
    os.rename(m.repository, m.repository + ".away")
    severity, subject, _ = site.found("repository")[0]
    assert (severity, subject) == ("error", m.repository)


def test_damage(site):
    m = site.machine
    first, second = [m.json("create", "app")["backup_id"] for _ in range(2)]
    records = os.path.join(m.repository, "backups")
    m.cli("verify", second)
    assert site.found("service.verified")[0][0] == "ok"
    packs = [os.path.join(d, n) for d, _, names in os.walk(os.path.join(m.repository, "packs")) for n in names]
    for pack in packs:
        with open(pack, "r+b") as f:
            f.seek(200)
            byte = f.read(1)[0]
            f.seek(200)
            f.write(bytes([byte ^ 4]))
    m.cli("verify", second, exit_code=8)
    assert site.found("repository.damage")[0][0] == "error"
    assert "damaged" in site.found("service.verified")[0][2]
    os.truncate(os.path.join(records, first), 10)
    severity, _, text = site.found("repository.records")[0]
    assert severity == "error" and first in text


def test_programs_and_accounts(site):
    """What workers need of the host. Without the agent's account they obey root alone, so it is root that asks."""
    m = site.machine
    m.workers.restart("backup", HOLDPOINT_LIBEXECDIR=m.directory)
    assert [f[:2] for f in site.found("program")] == [
        ("error", os.path.join(m.directory, program)) for program in ("holdpoint-sqlite", "holdpoint-lvm")]
    m.workers.restart("backup", HOLDPOINT_AGENT_USER="no-such-account")
    found = [f for f in worker.ask(m, "backup", "diagnose").summary["findings"] if f["check"] == "agent.user"]
    assert [(f["severity"], f["subject"]) for f in found] == [("error", "no-such-account")]
    m.workers.restart("backup")
    assert site.found("program") == [] and site.found("agent.user") == []


def test_defaults_that_are_ignored(site):
    m = site.machine
    with open(m.defaults, "w") as f:
        f.write("BACKUP_DIR=/elsewhere\nBACKUP_COLOUR=blue\n")
    m.write_config()
    told = site.found("configuration.defaults")
    assert {severity for severity, _, _ in told} == {"warning"} and len(told) == 2
    assert any("BACKUP_COLOUR" in text for _, _, text in told) and any("BACKUP_DIR" in text for _, _, text in told)
    os.unlink(m.defaults)
    assert site.found("configuration.defaults") == []


def test_keys_and_features(site):
    """A key that is none; a repository that a newer program wrote."""
    m = site.machine
    m.cli("create", "app")
    public = os.path.join(m.etc, "keys", "public.pem")
    with in_place_of(public, b"no key"):
        severity, _, text = site.found("keys")[0]
        assert severity == "error" and public in text
    path, data = resealed(site, "config", with_setting(ro_compat=["holograms"]))
    with in_place_of(path, data):
        assert [f[:2] for f in site.found("repository.features")] == [("error", m.repository)]
    assert site.found("keys") == [] and site.found("repository.features") == []


def test_a_repository_without_room(site, ext4):
    path = site.machine.repository = ext4.directory("store")
    site.machine.write_config()
    site.machine.reload()
    site.machine.cli("create", "app")
    assert site.found("repository.space")[0][:2] == ("ok", path)
    with open(os.path.join(ext4.path, "fill"), "wb") as f:
        space = os.statvfs(path)
        os.posix_fallocate(f.fileno(), 0, int(space.f_bavail * 0.99) * space.f_bsize)
        assert site.found("repository.space")[0][:2] == ("error", path)
    os.unlink(f.name)


def test_jobs_that_fail(site):
    m = site.machine
    m.cli("create", "app")
    assert site.found("jobs.restore") == []
    with subprocess.Popen(["sleep", "60"], cwd=site.path) as holder:
        m.cli("restore", "latest", "--service", "app", "--yes", exit_code=1)
        holder.kill()
    severity, _, text = site.found("jobs.restore")[0]
    assert severity == "warning" and text.startswith("0 of 1 restore jobs")
    assert site.found("jobs.backup")[0][0] == "ok"


def test_time(site):
    """Age counts, and so does a clock that once was ahead."""
    m = site.machine
    m.workers.close()
    clock = fakeclock.FakeClock(m)
    for name in holdpoint.CLASSES:
        m.workers.start(name)
    m.cli("create", "app")
    m.cli("verify", "latest")
    assert site.found("service.backup")[0][0] == site.found("service.verified")[0][0] == "ok"
    clock.set(20)
    severity, _, text = site.found("service.backup")[0]
    assert severity == "error" and "480 hours old" in text
    assert site.found("service.verified")[0][0] == "ok" and site.found("clock") == []
    clock.set(40)
    assert site.found("service.verified")[0][0] == "warning"
    m.cli("create", "app")
    assert site.found("service.backup")[0][0] == "ok"
    clock.set(0)
    assert site.found("clock")[0][0] == "error"


def test_schedules(site):
    assert site.found("schedule")[0][0] == "warning"
    site.schedule()
    assert site.found("schedule") == []
    site.schedule("nothing", "other")
    severity, subject, text = site.found("schedule")[0]
    assert (severity, subject) == ("error", "other") and "not configured" in text
    with open(os.path.join(site.machine.units, "holdpoint@other.timer.d", "50-holdpoint.conf"), "w") as f:
        f.write("[X-Holdpoint]\nColour=blue\n")
    severity, _, text = site.found("schedule")[0]
    assert severity == "error" and "50-holdpoint.conf:2:" in text


def test_an_unsettled_restore(site):
    m = site.machine
    m.cli("create", "app")
    m.cli("restore", "latest", "--service", "app", "--yes")
    assert [f[0] for f in site.found("restore")] == ["note"]
    m.cli("confirm", "latest", "--yes")
    assert site.found("restore") == []
    m.workers.restart("restore", HOLDPOINT_STEP="exchanged=stop")
    with subprocess.Popen([m.install.cli, "restore", "latest", "--service", "app", "--yes"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env=dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=m.bus.address)) as restore:
        holdpoint.wait_until(lambda: "error" in [f[0] for f in site.found("restore")], "the exchange", 60, 0.5)
        assert [f[0] for f in site.found("service.busy")] == ["note"] and site.found("service.databases") == []
        for pid in m.workers.pids():
            os.kill(pid, signal.SIGCONT)
        assert restore.wait(60) == 0
    assert [f[0] for f in site.found("restore")] == ["note"]
    # Its data is exchanged, and its units are still kept from starting.
    intents = os.path.join(m.worker_state, "intents")
    for name in os.listdir(intents):
        with open(os.path.join(intents, name)) as f:
            intent = json.load(f)
        if intent["state"] == "active":  # and not the confirmed one
            with open(os.path.join(intents, name), "w") as f:
                json.dump(dict(intent, held=True), f)
    assert [f[0] for f in site.found("restore")] == ["error"]


def test_many_things_wrong(site):
    """A service's user does not get to hide what is wrong elsewhere."""
    top = os.path.join(site.path, "many")
    os.makedirs(top)
    database(os.path.join(top, "0.db"))
    for i in range(1, 120):
        shutil.copy(os.path.join(top, "0.db"), os.path.join(top, "%d.db" % i))
    os.chown(top, 5, 5)
    site.machine.write_service("zz-gone", os.path.join(site.fs.path, "gone"))
    site.machine.reload()
    told = site.found("service.database-owner")
    assert len(told) == 21 and told[-1][2] == "100 more like these"
    assert site.found("service.path", "zz-gone")[0][0] == "error"


def test_no_worker_and_no_agent(site):
    m = site.machine
    m.workers.stop("backup")
    report = site.report()
    assert [f["severity"] for f in report["findings"] if f["check"] == "workers"] == ["error"]
    m.agent.stop()
    for address in (m.bus.address, "unix:path=/nonexistent/bus"):
        done = subprocess.run([m.install.cli, "doctor", "--json"], capture_output=True, text=True,
                              env=dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=address))
        assert done.returncode == 9 and done.stderr == ""
        report = holdpoint.json.loads(done.stdout)
        assert report["worst"] == "error" and report["errors"] == 1
        assert report["findings"][0]["check"] == "agent" and "check-config" in report["findings"][0]["remedy"]
    done = m.call("doctor")
    assert done.returncode == 9 and "does not answer" in done.stdout


def test_who_may(site):
    done = site.machine.call("doctor", user=ORDINARY)
    assert done.returncode == 4 and done.stdout == ""
    with busclient.Client(site.machine.bus.address) as client:
        with pytest.raises(busclient.BusError) as caught:
            client.call("Diagnose", "a{sv}", [{"colour": busclient.variant("s", "blue")}])
        assert caught.value.short == "InvalidArgument"
        report = client.call("Diagnose", "a{sv}", [{}])
        assert report["worst"] in SEVERITIES and len(report["findings"]) > 5
    jobs = site.machine.json("jobs")["jobs"]
    assert {(j["type"], j["result"]) for j in jobs} >= {("diagnose", "done")}
