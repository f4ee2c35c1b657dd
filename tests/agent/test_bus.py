"""The agent's bus interface, against workers of the test's own: every argument, limit and end of a job."""

import json
import os
import pwd
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
import xml.etree.ElementTree as ElementTree

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

from busclient import BusError, Client, FakeWorkers, JOB, MANAGER, variant  # noqa: E402
from busrig import Gate, bus, fails, install, rig  # noqa: E402, F401
from holdpoint import BUS_ROOT, TOP, run, wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the agent runs as another user")

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
NOT_SUPPORTED = "org.freedesktop.DBus.Error.NotSupported"


# --- what can be called ---------------------------------------------------------------------------------------------

MEMBERS = {
    "CreateBackup": ("ssa{sv}", "so"), "ListBackups": ("a{sv}", "uaa{sv}"), "GetBackup": ("s", "a{sv}"),
    "DeleteBackup": ("sa{sv}", "o"), "PinBackup": ("sb", ""), "PlanRestore": ("ssa{sv}", "a{sv}"),
    "RestoreBackup": ("ssa{sv}", "so"), "ListRestores": ("a{sv}", "aa{sv}"), "RollbackRestore": ("sa{sv}", "o"),
    "ConfirmRestore": ("s", "o"), "VerifyBackup": ("sa{sv}", "o"), "OpenBackup": ("sa{sv}", "ho"),
    "ListFiles": ("sssa{sv}", "ho"), "DiffBackups": ("ssa{sv}", "ho"), "Prune": ("a{sv}", "o"),
    "SetSchedule": ("sa{sv}", ""), "GetSchedule": ("s", "a{sv}"), "ListSchedules": ("a{sv}", "aa{sv}"),
    "ImportBackup": ("hsa{sv}", "so"), "GetRepository": ("a{sv}", "a{sv}"), "Diagnose": ("a{sv}", "a{sv}"), "DeleteSchedule": ("s", ""), "RunSchedule": ("s", "so"), "ListJobs": ("a{sv}", "aa{sv}"),
    "GetJob": ("u", "a{sv}"), "ExportRecoveryKey": ("a{sv}", "h"), "ProveRecoveryKey": ("h", ""),
    "ForgetPrivateKey": ("a{sv}", ""), "GetStatus": ("a{sv}", "a{sv}"), "Reload": ("", ""),
}
PROPERTIES = {
    "Version": "s", "State": "s", "Services": "as", "RunningJobs": "ao", "BackupCount": "t", "StoredBytes": "t",
    "RepositoryFreeBytes": "t", "LastSuccessUSec": "t", "Overdue": "as", "SuccessRate": "d", "RestoreSuccessRate": "d",
}
JOB_PROPERTIES = {
    "Id": "u", "Type": "s", "BackupId": "s", "Services": "as", "StartedByUID": "u", "StartedUSec": "t", "State": "s",
    "Phase": "s", "Progress": "d", "BytesDone": "t", "BytesTotal": "t", "FilesDone": "t", "FilesTotal": "t",
    "Rate": "t", "ExpectedEndUSec": "t", "PauseUSec": "t", "Cancelable": "b", "Result": "s", "ErrorName": "s",
    "ErrorMessage": "s",
}


def interface_of(xml, name):
    return next(i for i in ElementTree.fromstring(xml).findall("interface") if i.get("name") == name)


def test_introspection(bus):
    manager = interface_of(bus.introspect(), MANAGER)
    methods = {}
    for method in manager.findall("method"):
        arguments = method.findall("arg")
        assert all(a.get("name") for a in arguments), method.get("name")
        methods[method.get("name")] = tuple("".join(a.get("type") for a in arguments if a.get("direction") == d)
                                            for d in ("in", "out"))
    assert methods == MEMBERS
    assert {p.get("name"): p.get("type") for p in manager.findall("property")} == PROPERTIES
    signals = {s.get("name"): [(a.get("type"), a.get("name")) for a in s.findall("arg")]
               for s in manager.findall("signal")}
    assert signals == {
        "JobNew": [("u", "id"), ("o", "job"), ("s", "type"), ("s", "backup_id")],
        "JobRemoved": [("u", "id"), ("o", "job"), ("s", "result"), ("a{sv}", "summary")],
        "BackupAdded": [("s", "backup_id")], "BackupRemoved": [("s", "backup_id")],
        "ServiceOverdue": [("s", "service"), ("t", "since_usec")],
    }
    job = interface_of(bus.introspect(BUS_ROOT + "/job/_1"), JOB)
    assert {p.get("name"): p.get("type") for p in job.findall("property")} == JOB_PROPERTIES
    assert [m.get("name") for m in job.findall("method")] == ["Cancel"]
    assert [s.get("name") for s in job.findall("signal")] == ["Finished"]


def test_not_supported_options(rig, bus):
    backup = rig.completed()
    remote = {"confirm": variant("b", True), "from": variant("s", "remote")}
    fails(NOT_SUPPORTED, bus.call, "RestoreBackup", "ssa{sv}", [backup, "full", remote])


def test_unknown_method(bus):
    fails("org.freedesktop.DBus.Error.UnknownMethod", bus.call, "EraseEverything")
    fails("org.freedesktop.DBus.Error.InvalidArgs", bus.call, "GetBackup", "u", [1])


def test_other_users_are_denied(rig, bus):
    """An ordinary user reaches every method and is refused by each, before any argument is looked at."""
    script = """
import sys
sys.path.insert(0, sys.argv[2])
from busclient import BusError, Client
from test_bus import MEMBERS
client = Client(sys.argv[1], signals=False)
empty = {"s": "", "b": False, "u": 1, "h": 0, "a{sv}": {}}
for member, (signature, _) in MEMBERS.items():
    types = [t for t in signature.replace("a{sv}", "D")]
    types = ["a{sv}" if t == "D" else t for t in types]
    try:
        client.call(member, signature, [empty[t] for t in types], fds=[0] if "h" in types else [])
        print(member, "worked")
    except BusError as error:
        print(member, error.name)
try:
    client.call("Cancel", "a{sv}", [{}], path="/org/holdpoint/Backup1/job/_1", interface="org.holdpoint.Backup1.Job")
    print("Cancel worked")
except BusError as error:
    print("Cancel", error.name)
"""
    account = pwd.getpwnam("nobody")
    here = os.path.dirname(os.path.abspath(__file__))
    # The user may not be able to read this tree: what it runs is copied to where it can.
    copy = os.path.join(rig.machine.directory, "script")
    os.mkdir(copy)
    for source in (os.path.join(TOP, "tests/lib/busclient.py"), os.path.join(TOP, "tests/lib/holdpoint.py"), os.path.join(TOP, "tests/lib/busrig.py"),
                   os.path.join(here, "test_bus.py")):
        with open(source) as f, open(os.path.join(copy, os.path.basename(source)), "w") as g:
            g.write(f.read())
        os.chmod(g.name, 0o644)
    done = subprocess.run([sys.executable, "-B", "-c", script, rig.machine.bus.address, copy], capture_output=True,
                          text=True, user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", timeout=60)
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines == {member: DENIED for member in [*MEMBERS, "Cancel"]}, done.stderr
    assert bus.call("ListBackups", "a{sv}", [{}])[0] == 0


def test_caller_that_goes(rig, bus):
    """A call whose sender has left before it was looked at does nothing."""
    with Client(rig.machine.bus.address, signals=False) as gone:
        for _ in range(20):
            gone.start("GetStatus", "a{sv}", [{}])
        gone.run_for(0)
    assert bus.call("GetStatus", "a{sv}", [{}])["state"] in ("idle", "running")


# --- arguments ------------------------------------------------------------------------------------------------------

def test_create_arguments(bus):
    fails("NoSuchService", bus.create, "gamma")
    fails("NoSuchService", bus.create, "")
    fails("NoSuchService", bus.create, "../etc")
    fails("InvalidArgument", bus.create, "alpha", "")
    fails("InvalidArgument", bus.create, "alpha", "x" * 256)
    fails("InvalidArgument", bus.create, "alpha", "a\nb")
    fails("InvalidArgument", bus.create, "alpha", "a\x1b[2J")
    fails("InvalidArgument", bus.create, compression_level=variant("u", 10))
    assert "compression_level" in fails("InvalidArgument", bus.create, compression_level=variant("i", 1))
    assert "'pinned'" in fails("InvalidArgument", bus.create, pinned=variant("s", "yes"))
    assert "'pined'" in fails("InvalidArgument", bus.create, pined=variant("b", True))
    fails("InvalidArgument", bus.create, description=variant("s", "a\x07b"))
    assert bus.call("ListBackups", "a{sv}", [{}])[0] == 0


def test_ids(bus):
    for member, signature, rest in (("GetBackup", "s", []), ("DeleteBackup", "sa{sv}", [{}]),
                                    ("VerifyBackup", "sa{sv}", [{}]), ("RestoreBackup", "ssa{sv}", ["full", {}]),
                                    ("PinBackup", "sb", [True]), ("PlanRestore", "ssa{sv}", ["full", {}]),
                                    ("OpenBackup", "sa{sv}", [{}]), ("ListFiles", "sssa{sv}", ["", "", {}])):
        for bad in ("", "latest", "x" * 36, str(uuid.uuid4()).upper(), str(uuid.uuid4()) + "a", "../../etc/passwd"):
            fails("InvalidArgument", bus.call, member, signature, [bad, *rest])
        fails("NoSuchBackup", bus.call, member, signature, [str(uuid.uuid4()), *rest])
    fails("InvalidArgument", bus.call, "ConfirmRestore", "s", ["no"])
    fails("NoSuchRestore", bus.call, "ConfirmRestore", "s", [str(uuid.uuid4())])
    fails("NoSuchRestore", bus.call, "RollbackRestore", "sa{sv}", [str(uuid.uuid4()), {}])
    fails("NoSuchJob", bus.call, "GetJob", "u", [4000000000])


def test_list_arguments(rig, bus):
    def listed(**options):
        return bus.call("ListBackups", "a{sv}", [options])
    ids = [rig.completed(created_at="2024-01-15T02:00:%02dZ" % i) for i in range(3)]
    beta = rig.completed("beta", created_at="2024-02-01T00:00:00Z")
    newest = [beta, *reversed(ids)]
    total, rows = listed()
    assert total == 4 and [r["backup_id"] for r in rows] == newest
    total, rows = listed(page=variant("u", 2), limit=variant("u", 3))
    assert total == 4 and [r["backup_id"] for r in rows] == newest[3:]
    assert listed(page=variant("u", 4294967295), limit=variant("u", 500)) == [4, []]
    assert listed(type=variant("s", "beta"))[0] == 1
    assert listed(service=variant("s", "alpha"), status=variant("s", "completed"), type=variant("s", "all"))[0] == 3
    assert listed(status=variant("s", "failed")) == [0, []]
    for key, bad in (("page", variant("u", 0)), ("limit", variant("u", 0)), ("limit", variant("u", 501)),
                     ("type", variant("s", "' OR 1")), ("status", variant("s", "good")), ("service", variant("s", "A")),
                     ("page", variant("s", "1")), ("pages", variant("u", 1))):
        assert key in fails("InvalidArgument", listed, **{key: bad})


def test_size_limit(bus):
    fails("org.freedesktop.DBus.Error.LimitsExceeded", bus.create, "alpha", "x" * 70000)
    fails("org.freedesktop.DBus.Error.LimitsExceeded", bus.create, description=variant("s", "x" * 70000))
    fails("org.freedesktop.DBus.Error.LimitsExceeded", bus.create, description=variant("at", [7] * 10000))
    fails("InvalidArgument", bus.create, "alpha", "x" * 60000)


def test_many_clients(rig, bus):
    clients = [Client(rig.machine.bus.address, signals=False) for _ in range(50)]
    try:
        calls = [(c, c.start("GetStatus", "a{sv}", [{}])) for c in clients for _ in range(4)]
        for client, call in calls:
            assert client.finish(call)["version"]
    finally:
        for client in clients:
            client.close()


# --- backups --------------------------------------------------------------------------------------------------------

def test_create_and_get(rig, bus):
    def create(worker):
        worker.send("accepted")
        worker.send("phase", phase="hold")
        worker.send("point", pause_usec=1234)
        worker.send("progress", bytes_done=10, bytes_total=100, files_done=1, files_total=3)
        worker.send("backup", backup=worker.record())
        worker.result(backup_id=worker.request["backup_id"], bytes=1000, pause_usec=1234, ok=True, services=["alpha"])
    rig.workers.handlers["create"] = create
    backup, job = bus.create("full", "näme", description=variant("s", "two\nlines"), pinned=variant("b", True),
                             compression_level=variant("u", 0), include_files=variant("b", False))
    result, summary = bus.wait_job(job)
    assert (result, summary["backup_id"], summary["bytes"], summary["ok"]) == ("done", backup, 1000, True)
    request = next(r for c, r in rig.workers.requests if c == "backup")
    assert request["services"] == ["alpha", "beta"] and request["level"] == 0
    assert request["pinned"] is True and request["include_files"] is False and request["created_by"] == "uid:0"
    raw = bus.call("GetBackup", "s", [backup], raw=True).body[0]
    assert {k: v.signature for k, v in raw.items()} == {
        "backup_id": "s", "backup_name": "s", "backup_type": "s", "description": "s", "created_by": "s", "status": "s",
        "created_at": "s", "completed_at": "s", "bytes": "t", "backup_size": "t", "new_bytes": "t", "files": "t",
        "file_path": "s", "checksum": "s", "services": "as", "copies": "as", "pinned": "b", "parent_id": "s",
        "schedule": "s", "consistency": "s", "service_consistency": "a{ss}", "pause_usec": "t", "databases": "aa{sv}",
        "metadata": "s", "verified_at": "s", "verified_depth": "s", "verified_result": "s",
    }
    got = bus.call("GetBackup", "s", [backup])
    assert got["status"] == "completed" and got["bytes"] == got["backup_size"] == 1000 and got["pinned"] is True
    assert got["backup_name"] == "näme" and got["description"] == "two\nlines"
    assert got["service_consistency"] == {"alpha": "application", "beta": "application"}
    assert got["databases"] == [{"path": "/srv/a/tasks.db", "uid": 33, "pause_usec": 1200, "checked": True}]
    assert [b for _, m, b, _ in bus.signals if m == "BackupAdded"] == [[backup]]
    new = bus.wait_signal("JobNew", lambda _, b: b[1] == job)
    assert new[2:] == ["backup", backup]
    properties = bus.get_all(job)
    assert properties["Result"] == "done" and properties["Progress"] == 1 and properties["PauseUSec"] == 1234
    assert properties["State"] == "finished" and properties["Cancelable"] is False and properties["ErrorName"] == ""
    order = [m for p, m, b, _ in bus.signals if p == job or (m in ("JobNew", "JobRemoved") and b[1] == job)]
    assert order[0] == "JobNew" and order[-2:] == ["Finished", "JobRemoved"]
    assert bus.get("BackupCount") == 1 and bus.get("SuccessRate") == 1


def test_running_row_and_progress(rig, bus):
    gate = Gate()
    rig.workers.handlers["create"] = gate
    backup, job = bus.create()
    assert bus.call("GetBackup", "s", [backup])["status"] == "running"
    assert gate.entered.wait(10)
    seen = []
    for done in (10, 50, 30, 20):
        gate.worker.send("progress", bytes_done=done, bytes_total=100, files_done=0, files_total=0)
        bus.run_for(0.3)
        seen.append(bus.get("Progress", job, JOB))
    assert seen == sorted(seen) and seen[-1] == 0.5
    before = len(bus.signals)
    for i in range(200):
        gate.worker.send("progress", bytes_done=50 + i % 10, bytes_total=100, files_done=i, files_total=300)
        time.sleep(0.005)
    bus.run_for(0.1)
    told = [s for s in bus.signals[before:] if s[0] == job and s[1] == "PropertiesChanged"]
    assert len(told) >= 3
    times = [t[3] for t in told]
    assert all(later - t >= 1 for t, later in zip(times, times[4:])), times  # never five within a second
    assert bus.get("RunningJobs") == [job] and bus.get("State") == "running"
    gate.then = lambda w: (w.send("backup", backup=w.record()), w.result())
    gate.go.set()
    assert bus.wait_job(job)[0] == "done"


def test_failed_backup(rig, bus):
    rig.workers.handlers["create"] = lambda w: w.result("failed", "NoSpace")
    backup, job = bus.create()
    result, summary = bus.wait_job(job)
    assert result == "failed" and summary["error_name"].endswith(".NoSpace")
    got = bus.call("GetBackup", "s", [backup])
    assert got["status"] == "failed" and got["completed_at"]
    assert json.loads(got["metadata"])["error"] == {"name": "NoSpace", "text": "the worker says NoSpace"}
    assert bus.get("ErrorName", job, JOB).endswith(".NoSpace")
    assert bus.get("BackupCount") == 0 and bus.get("SuccessRate") == 0 and bus.get("LastSuccessUSec") == 0


def test_partial_is_no_success(rig, bus):
    backup = rig.completed(status="partial")
    assert bus.call("GetBackup", "s", [backup])["status"] == "partial"
    assert bus.get("LastSuccessUSec") == 0 and bus.get("SuccessRate") == 0 and "alpha" in bus.get("Overdue")


@pytest.mark.parametrize("send", [
    lambda w: w.send_raw(b"not json"),
    lambda w: w.send_raw(b"[1]"),
    lambda w: w.send_raw(b'{"type":"hello"}'),
    lambda w: w.send("phase", phase="x" * 100),
    lambda w: w.send("progress", bytes_done=-1, bytes_total=1, files_done=0, files_total=0),
    lambda w: w.send("progress", bytes_done="1", bytes_total=1, files_done=0, files_total=0),
    lambda w: (w.send("backup", backup=w.record(backup_id=str(uuid.uuid4()))), w.result()),  # not the one asked for
    lambda w: w.send("backup", backup=w.record(status="running")),
    lambda w: w.send("backup", backup=w.record(bytes="many")),
    lambda w: w.send("backup", backup=w.record(services=[1])),
    lambda w: w.send("backup", backup=w.record(backup_name="a\x1bb")),
    lambda w: w.send("backup", backup=w.record(metadata="nothing")),
    lambda w: w.send("backup", backup=w.record(databases=[{"a": {}}])),
    lambda w: w.send("result", result="splendid"),
    lambda w: w.send("result", result="interrupted", error={"name": "Internal", "errno": 5, "text": "x"}),
    lambda w: w.send("result", result="failed"),
    lambda w: w.result("done"),
])
def test_hostile_worker(rig, bus, send):
    """Whatever a worker sends that does not fit: the job failed, the agent goes on."""
    def create(worker):
        send(worker)
        worker.receive()
    rig.workers.handlers["create"] = create
    backup, job = bus.create()
    result, summary = bus.wait_job(job)
    assert result == "failed" and summary["error_name"].endswith(".Internal")
    assert bus.call("GetBackup", "s", [backup])["status"] == "failed"
    assert rig.machine.agent.process.poll() is None


def test_descriptor_from_worker(rig, bus):
    """Nobody asked for one."""
    rig.workers.handlers["create"] = lambda w: (socket.send_fds(w.connection, [b'{"type":"accepted"}'], [0]), w.receive())
    assert bus.wait_job(bus.create()[1])[0] == "failed"


def test_lost_worker(rig, bus):
    rig.workers.handlers["create"] = lambda w: w.send("phase", phase="store")
    before = sum(r["verb"] == "reconcile" for _, r in rig.workers.requests)
    backup, job = bus.create()
    result, summary = bus.wait_job(job)
    assert result == "interrupted" and summary["error_name"].endswith(".Interrupted")
    got = bus.call("GetBackup", "s", [backup])
    assert got["status"] == "failed" and json.loads(got["metadata"])["error"]["name"] == "Interrupted"
    wait_until(lambda: sum(r["verb"] == "reconcile" for _, r in rig.workers.requests) > before, "a reconcile")


def test_lost_worker_with_record(rig, bus):
    """The record was there before the worker went: the backup exists."""
    rig.workers.handlers["create"] = lambda w: w.send("backup", backup=w.record())
    rig.workers.handlers["reconcile"] = lambda w: w.receive()
    backup, job = bus.create()
    assert bus.wait_job(job)[0] == "interrupted"
    assert bus.call("GetBackup", "s", [backup])["status"] == "completed"


def test_cancel(rig, bus):
    def create(worker):
        worker.send("accepted")
        assert worker.receive() == {"type": "cancel"}
        worker.result("canceled", "Canceled")
    rig.workers.handlers["create"] = create
    backup, job = bus.create()
    wait_until(lambda: bus.get("State", job, JOB) == "running", "the job")
    _, queued = bus.create()
    fails("InvalidArgument", bus.call, "Cancel", "a{sv}", [{"now": variant("b", True)}], path=queued, interface=JOB)
    bus.call("Cancel", "a{sv}", [{}], path=queued, interface=JOB)
    assert bus.wait_job(queued)[0] == "canceled"
    bus.call("Cancel", "a{sv}", [{}], path=job, interface=JOB)
    result, summary = bus.wait_job(job)
    assert result == "canceled" and summary["error_name"].endswith(".Canceled")
    assert json.loads(bus.call("GetBackup", "s", [backup])["metadata"])["error"]["name"] == "Canceled"
    fails("NoSuchJob", bus.call, "Cancel", "a{sv}", [{}], path=job, interface=JOB)
    assert bus.get("SuccessRate") == 1


# --- the queue ------------------------------------------------------------------------------------------------------

def test_queue_limits(rig, bus):
    gate = Gate()
    rig.workers.handlers["create"] = gate
    jobs = [bus.create()[1] for _ in range(5)]
    fails("QueueFull", bus.create)
    states = [bus.get("State", j, JOB) for j in jobs]
    assert states == ["running"] + ["queued"] * 4
    for job in jobs[1:]:
        bus.call("Cancel", "a{sv}", [{}], path=job, interface=JOB)
    gate.go.set()
    assert bus.wait_job(jobs[0])[0] == "failed"  # no record was sent
    assert bus.call("ListBackups", "a{sv}", [{"status": variant("s", "failed")}])[0] == 5


def test_queue_limit_of_all(rig):
    rig.machine.write_config("[Agent]\nMaxQueuedJobs=2\n")
    bus = rig.start()
    gate = Gate()
    rig.workers.handlers["create"] = gate
    jobs = [bus.create()[1] for _ in range(3)]
    assert "MaxQueuedJobs=" in fails("QueueFull", bus.create)
    assert bus.call("ListBackups", "a{sv}", [{}])[0] == 3  # a refused call leaves no row
    gate.go.set()
    for job in jobs:
        bus.wait_job(job)


def test_first_come_first_served(rig, bus):
    seen = []
    rig.workers.handlers["create"] = lambda w: (seen.append(w.request["backup_name"]),
                                                w.send("backup", backup=w.record()), w.result())
    jobs = [bus.create(name=str(i))[1] for i in range(5)]
    for job in jobs:
        bus.wait_job(job)
    assert seen == list("01234")


def test_reading_beside_writing(rig, bus):
    backup = rig.completed()
    gate, reading = Gate(), []
    rig.workers.handlers["create"] = gate
    verifying = Gate()
    rig.workers.handlers["verify"] = verifying
    _, writing = bus.create()
    for _ in range(5):
        reading.append(bus.call("VerifyBackup", "sa{sv}", [backup, {"depth": variant("s", "data")}]))
    wait_until(lambda: bus.get("State", writing, JOB) == "running", "the writing job")
    states = [bus.get("State", j, JOB) for j in reading]
    assert states == ["running"] * 4 + ["queued"]
    assert "uses backup" in fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [backup, {}])
    verifying.go.set()
    assert all(bus.wait_job(j)[0] == "done" for j in reading)
    assert bus.get("State", writing, JOB) == "running"
    gate.go.set()
    bus.wait_job(writing)


def test_delete(rig, bus):
    backup = rig.completed()
    rig.workers.handlers["delete"] = lambda w: w.result("failed", "Internal")
    assert bus.wait_job(bus.call("DeleteBackup", "sa{sv}", [backup, {}]))[0] == "failed"
    assert bus.call("GetBackup", "s", [backup])["status"] == "completed"
    del rig.workers.handlers["delete"]
    fails("InvalidArgument", bus.call, "DeleteBackup", "sa{sv}", [backup, {"force": variant("b", True)}])
    assert bus.wait_job(bus.call("DeleteBackup", "sa{sv}", [backup, {}]))[0] == "done"
    assert bus.wait_signal("BackupRemoved") == [backup]
    fails("NoSuchBackup", bus.call, "GetBackup", "s", [backup])
    jobs = bus.call("ListJobs", "a{sv}", [{}])
    assert [j["type"] for j in jobs[:3]] == ["delete", "delete", "backup"] and jobs[0]["backup_id"] == backup


def test_delete_of_a_failed_run(rig, bus):
    rig.workers.handlers["create"] = lambda w: w.result("failed", "NoSpace")
    backup, job = bus.create()
    bus.wait_job(job)
    rig.workers.handlers["delete"] = lambda w: w.result("failed", "NoSuchBackup")
    assert bus.wait_job(bus.call("DeleteBackup", "sa{sv}", [backup, {}]))[0] == "done"
    assert bus.call("ListBackups", "a{sv}", [{}])[0] == 0


# --- restores -------------------------------------------------------------------------------------------------------

YES = {"confirm": variant("b", True)}


def restore_row(worker, state, **changes):
    r = worker.request
    return dict({"restore_id": r["restore_id"], "backup_id": r.get("backup_id", str(uuid.uuid4())),
                 "services": ["alpha"], "state": state, "created_at": "2024-01-15T03:00:00Z",
                 "completed_at": "2024-01-15T03:00:01Z", "units_down_usec": 77}, **changes)


def test_restore(rig, bus):
    backup = rig.completed()
    fails("NotConfirmed", bus.call, "RestoreBackup", "ssa{sv}", [backup, "full", {}])
    fails("NotConfirmed", bus.call, "RestoreBackup", "ssa{sv}", [backup, "full", {"confirm": variant("b", False)}])
    fails("NoSuchService", bus.call, "RestoreBackup", "ssa{sv}", [backup, "beta", YES])
    fails("InvalidArgument", bus.call, "RestoreBackup", "ssa{sv}", [backup, "full", {**YES, "from": variant("s", "moon")}])
    fails("InvalidArgument", bus.call, "RestoreBackup", "ssa{sv}", [backup, "full", {**YES, "dir": variant("s", "/")}])
    gate = Gate(lambda w: (w.send("restore", restore=restore_row(w, "active")), w.result(method="subvolume")))
    rig.workers.handlers["restore"] = gate
    restore, job = bus.call("RestoreBackup", "ssa{sv}", [backup, "alpha", {**YES, "from": variant("s", "hot")}])
    assert gate.entered.wait(10)
    assert bus.call("ListRestores", "a{sv}", [{}])[0]["state"] == "staging"
    fails("Busy", bus.call, "RestoreBackup", "ssa{sv}", [backup, "full", YES])
    fails("Busy", bus.call, "ConfirmRestore", "s", [restore])
    fails("Busy", bus.call, "RollbackRestore", "sa{sv}", [restore, {}])
    fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [backup, {}])
    gate.go.set()
    result, summary = bus.wait_job(job)
    assert result == "done" and summary["restore_id"] == restore and summary["method"] == "subvolume"
    assert gate.worker.request["from"] == "hot" and gate.worker.request["into"] is False
    raw = bus.call("ListRestores", "a{sv}", [{}], raw=True).body[0][0]
    assert {k: v.signature for k, v in raw.items()} == {
        "restore_id": "s", "backup_id": "s", "services": "as", "state": "s", "created_at": "s", "completed_at": "s",
        "units_down_usec": "t", "error": "s"}
    assert raw["state"].value == "active" and raw["units_down_usec"].value == 77
    rig.workers.handlers["rollback"] = lambda w: (
        w.send("restore", restore=restore_row(w, "rolled_back", backup_id=backup)), w.result())
    assert bus.wait_job(bus.call("RollbackRestore", "sa{sv}", [restore, {}]))[0] == "done"
    assert bus.call("ListRestores", "a{sv}", [{}])[0]["state"] == "rolled_back"
    rig.workers.handlers["confirm"] = lambda w: w.result("failed", "NotRestorable")
    assert bus.wait_job(bus.call("ConfirmRestore", "s", [restore]))[0] == "failed"
    assert bus.call("ListRestores", "a{sv}", [{}])[0]["state"] == "rolled_back"


def test_restore_that_fails(rig, bus):
    backup = rig.completed()
    rig.workers.handlers["restore"] = lambda w: w.result("failed", "TargetInUse")
    restore, job = bus.call("RestoreBackup", "ssa{sv}", [backup, "full", YES])
    assert bus.wait_job(job)[0] == "failed"
    assert [(r["restore_id"], r["state"]) for r in bus.call("ListRestores", "a{sv}", [{}])] == [(restore, "failed")]
    assert bus.get("RestoreSuccessRate") == 0


def test_restore_of_what_is_not_complete(rig, bus):
    partial = rig.completed(status="partial")
    rig.workers.handlers["create"] = lambda w: w.result("failed", "NoSpace")
    failed, job = bus.create()
    bus.wait_job(job)
    for backup, options, result in ((failed, YES, "failed"), (partial, YES, "failed"),
                                    (partial, dict(YES, allow_partial=variant("b", True)), "done")):
        _, job = bus.call("RestoreBackup", "ssa{sv}", [backup, "full", options])
        got, summary = bus.wait_job(job)
        assert got == result
        if result == "failed":
            assert summary["error_name"].endswith(".NotRestorable")


def test_restore_aside(rig, bus, tmp_path):
    backup = rig.completed()
    seen = []

    def restore(worker):
        seen.append((os.readlink("/proc/self/fd/%d" % worker.fds[0]), worker.request["into"]))
        worker.send("restore", restore=restore_row(worker, "active"))
        worker.result()
    rig.workers.handlers["restore"] = restore
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    options = dict(YES, directory=variant("h", 0))

    def open_in_agent():
        return len(os.listdir("/proc/%d/fd" % rig.machine.agent.process.pid))
    before = open_in_agent()
    fails("InvalidArgument", bus.call, "RestoreBackup", "ssa{sv}", [backup, "full", options], fds=[file])
    _, job = bus.call("RestoreBackup", "ssa{sv}", [backup, "full", options], fds=[directory])
    assert bus.wait_job(job)[0] == "done"
    assert seen == [(str(tmp_path), True)]
    assert bus.call("ListRestores", "a{sv}", [{}]) == []
    wait_until(lambda: open_in_agent() <= before, "the agent to close what it was given")
    os.close(file)
    os.close(directory)


# --- the catalogue follows --------------------------------------------------------------------------------------------

def test_reconcile(rig, bus):
    keep, lose = rig.completed(), rig.completed()
    rows = {}
    with rig.catalogue() as db:
        rows = {i: json.loads(d) for i, d in db.execute("SELECT backup_id, details FROM backup_records")}
    new = dict(rows[lose], backup_id=str(uuid.uuid4()), services=["beta"], backup_type="beta")
    restore = {"restore_id": str(uuid.uuid4()), "backup_id": keep, "services": ["alpha"], "state": "active",
               "created_at": "2024-01-15T03:00:00Z", "completed_at": "", "units_down_usec": 5}

    def reconcile(worker):
        worker.send("accepted")
        worker.send("backup", backup=rows[keep])
        worker.send("backup", backup=new)
        worker.send("restore", restore=restore)
        worker.send("space", stored_bytes=12345, free_bytes=67890)
        worker.result(backups=2, restores=1, damaged=0)
    rig.workers.handlers["reconcile"] = reconcile
    bus = rig.restart()
    ids = {r["backup_id"] for r in bus.call("ListBackups", "a{sv}", [{}])[1]}
    assert ids == {keep, new["backup_id"]}
    assert bus.call("ListRestores", "a{sv}", [{}])[0]["state"] == "active"
    assert bus.get("StoredBytes") == 12345 and bus.get("RepositoryFreeBytes") == 67890
    status = bus.call("GetStatus", "a{sv}", [{}])
    assert status["stored_bytes"] == 12345 and status["backup_count"] == 2
    rig.workers.handlers["reconcile"] = lambda w: w.result("failed", "Internal")
    bus = rig.restart()
    assert {r["backup_id"] for r in bus.call("ListBackups", "a{sv}", [{}])[1]} == ids


def test_damaged_catalogue(rig, bus):
    backup = rig.completed()
    with rig.catalogue() as db:
        row = json.loads(db.execute("SELECT details FROM backup_records").fetchone()[0])
    rig.workers.handlers["reconcile"] = lambda w: (w.send("backup", backup=row), w.result())
    assert rig.machine.agent.stop() == 0
    for name in os.listdir(rig.machine.state):
        with open(os.path.join(rig.machine.state, name), "wb") as f:
            f.write(b"this is not a database" * 1000)
    bus = rig.start()
    got = bus.call("GetBackup", "s", [backup])
    assert got["status"] == "completed" and got["checksum"] == "ab" * 32
    assert [n for n in os.listdir(rig.machine.state) if re.fullmatch(r"catalogue\.db\.damaged-\w+", n)]
    for name in os.listdir(rig.machine.state):
        if not name.count("damaged"):
            assert os.stat(os.path.join(rig.machine.state, name)).st_mode & 0o777 == 0o600


def test_full_disk(rig):
    """No space for the catalogue: calls fail, a finished backup is not called good, and all heals afterwards."""
    state = rig.machine.state
    account = pwd.getpwnam(rig.machine.agent.user)
    run("mount", "-t", "tmpfs", "-o", "size=1m,mode=0700,uid=%d" % account.pw_uid, "none", state)
    try:
        bus = rig.start()
        gate = Gate(lambda w: (w.send("backup", backup=w.record()), w.result()))
        rig.workers.handlers["create"] = gate
        backup, job = bus.create()
        assert gate.entered.wait(10)
        with open(os.path.join(state, "filler"), "wb", buffering=0) as f:
            with pytest.raises(OSError):
                while True:
                    f.write(b"x" * 512)
        for _ in range(200):  # what room the log had left
            try:
                bus.call("Cancel", "a{sv}", [{}], path=bus.create()[1], interface=JOB)
            except BusError as error:
                assert error.short == "NoSpace", error
                break
        else:
            pytest.fail("the disk was never full")
        gate.go.set()
        result, summary = bus.wait_job(job)
        assert result == "failed" and summary["error_name"].endswith(".NoSpace"), summary
        assert "catalogue" in summary["error_message"]
        record = gate.worker.record()
        rig.workers.handlers["reconcile"] = lambda w: (w.send("backup", backup=record), w.result())
        os.unlink(os.path.join(state, "filler"))
        bus = rig.restart()
        assert bus.call("GetBackup", "s", [backup])["status"] == "completed"
        assert bus.call("ListBackups", "a{sv}", [{"status": variant("s", "running")}])[0] == 0
    finally:
        rig.machine.agent.stop()
        for client in rig.clients:
            client.close()
        rig.clients.clear()
        run("umount", state)


def test_newer_catalogue(rig, bus):
    rig.completed()
    assert rig.machine.agent.stop() == 0
    with rig.catalogue() as db:
        db.execute("PRAGMA user_version = 99")
    done = subprocess.run([rig.machine.install.agent], env=rig.machine.agent_environment, capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 1 and "99" in done.stderr and "newer" in done.stderr


def test_restart(rig, bus):
    """A killed agent's jobs are interrupted, its numbers go on, its running rows have failed."""
    gate = Gate()
    rig.workers.handlers["create"] = gate
    backup, job = bus.create()
    _, queued = bus.create()
    assert gate.entered.wait(10)
    bus = rig.restart(kill=True)
    gate.go.set()
    number = int(job.rpartition("_")[2])
    row = bus.call("GetJob", "u", [number])
    assert row["result"] == "interrupted" and row["state"] == "finished" and row["finished_usec"] > 0
    assert row["error_name"].endswith(".Interrupted")
    got = bus.call("GetBackup", "s", [backup])
    assert got["status"] == "failed" and json.loads(got["metadata"])["error"]["name"] == "Interrupted"
    assert bus.call("ListBackups", "a{sv}", [{"status": variant("s", "running")}])[0] == 0
    rig.workers.handlers.clear()
    _, later = bus.create()
    assert int(later.rpartition("_")[2]) > int(queued.rpartition("_")[2])


def test_worker_that_finishes_later(rig, bus):
    """The agent died, its worker went on and made the backup after the new agent had looked. What else it left is swept."""
    def swept():
        return [c for c, r in rig.workers.requests if r["verb"] == "sweep"]

    gate = Gate(lambda w: rig.workers.repository.update({w.request["backup_id"]: w.record()}))
    rig.workers.handlers["create"] = gate
    backup, _ = bus.create()
    assert gate.entered.wait(10)
    bus = rig.restart(kill=True)
    assert bus.call("GetBackup", "s", [backup])["status"] == "failed"
    gate.go.set()
    assert not swept()
    assert bus.wait_signal("BackupAdded", timeout=20) == [backup]
    assert bus.call("GetBackup", "s", [backup])["status"] == "completed"
    wait_until(swept, "a sweep")
    assert swept() == ["backup"]
    bus = rig.restart()
    wait_until(lambda: bus.call("ListJobs", "a{sv}", [{"type": variant("s", "reconcile")}])[0]["state"] == "finished", "a reconcile")
    assert swept() == ["backup"], "nothing was interrupted"


def test_stop_while_running(rig, bus):
    def create(worker):
        worker.send("accepted")
        entered.set()
        hung_up.append(worker.receive() is None)
    entered, hung_up = threading.Event(), []
    rig.workers.handlers["create"] = create
    backup, _ = bus.create()
    assert entered.wait(10)
    assert rig.machine.agent.stop() == 0
    wait_until(lambda: hung_up == [True], "the worker to see the hang-up")
    bus = rig.start()
    assert bus.call("GetBackup", "s", [backup])["status"] == "failed"


def test_tables(rig, bus):
    """Other programs may read the tables the admin backend knows."""
    backup = rig.completed()
    with rig.catalogue() as db:
        row = db.execute("SELECT backup_name, backup_type, backup_size, file_path, status, description, created_at,"
                         " completed_at, checksum, created_by, metadata FROM backup_records WHERE backup_id = ?",
                         [backup]).fetchone()
        assert row[:5] == ("a name", "alpha", 1000, "backups/" + backup, "completed") and row[9] == "uid:0"
        task = db.execute("SELECT task_id, backup_id, status, progress, started_at, completed_at, error_message"
                          " FROM backup_tasks WHERE task_type = 'backup'").fetchone()
        assert task[1:4] == (backup, "done", 100) and task[4] and task[5] and task[6] is None
        db.execute("SELECT schedule_name, enabled, frequency, schedule_time, backup_type, retention_days, last_run,"
                   " next_run, created_at, updated_at FROM backup_schedules").fetchall()
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_overdue(rig, bus):
    assert sorted(bus.get("Overdue")) == ["alpha", "beta"]
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rig.completed("beta", created_at=now, completed_at=now)
    assert bus.get("Overdue") == ["alpha"]
    status = {s["service"]: s for s in bus.call("GetStatus", "a{sv}", [{}])["service_status"]}
    assert status["alpha"]["overdue"] is True and status["beta"]["overdue"] is False
    assert status["beta"]["last_success_usec"] == bus.get("LastSuccessUSec") > 0
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 26 * 3600 + 3))
    rig.completed("alpha", created_at=soon)
    assert bus.get("Overdue") == []
    bus.signals.clear()
    assert bus.wait_signal("ServiceOverdue")[0] == "alpha"
    assert bus.get("Overdue") == ["alpha"]


# --- workers, configuration, bus --------------------------------------------------------------------------------------

def test_missing_workers(rig):
    bus = rig.start(workers=False)
    assert bus.call("ListBackups", "a{sv}", [{}]) == [0, []]
    backup, job = bus.create()
    assert bus.get("State", job, JOB) == "running"
    result, summary = bus.wait_job(job)
    assert result == "failed" and "backup.socket" in summary["error_message"]
    assert bus.call("GetBackup", "s", [backup])["status"] == "failed"
    assert bus.call("GetStatus", "a{sv}", [{}])["workers_reachable"] is False


def test_cancel_before_the_worker(rig):
    bus = rig.start(workers=False)
    backup, job = bus.create()
    wait_until(lambda: bus.get("State", job, JOB) == "running", "the job")
    bus.call("Cancel", "a{sv}", [{}], path=job, interface=JOB)
    assert bus.wait_job(job, timeout=2)[0] == "canceled"
    assert json.loads(bus.call("GetBackup", "s", [backup])["metadata"])["error"]["name"] == "Canceled"


def test_late_workers(rig):
    bus = rig.start(workers=False)
    backup, job = bus.create()
    time.sleep(1)
    create = lambda w: (w.send("backup", backup=w.record()), w.result())  # noqa: E731
    rig.workers = FakeWorkers(rig.machine.workers_directory, handlers={"create": create})
    assert bus.wait_job(job)[0] == "done"


def test_reload(rig, bus):
    rig.machine.write_service("gamma", os.path.join(rig.machine.directory, "srv/gamma"))
    bus.call("Reload")
    assert bus.get("Services") == ["alpha", "beta", "gamma"]
    rig.machine.write_config("Colour=blue\n")
    text = fails("ConfigurationInvalid", bus.call, "Reload")
    assert "holdpoint.conf:3" in text
    assert bus.get("Services") == ["alpha", "beta", "gamma"]


def test_hangup_signal(rig, bus):
    rig.machine.write_service("gamma", os.path.join(rig.machine.directory, "srv/gamma"))
    rig.machine.agent.process.send_signal(signal.SIGHUP)
    wait_until(lambda: bus.get("Services") == ["alpha", "beta", "gamma"], "the third service")


def test_notify(rig):
    """What the service manager is told: ready, reloading, stopping, and that we are alive."""
    path = os.path.join(rig.machine.directory, "notify")
    account = pwd.getpwnam(rig.machine.agent.user)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        os.chown(path, account.pw_uid, account.pw_gid)
        listener.settimeout(10)

        def told(word):
            while True:
                if word in listener.recv(4096).decode():
                    return
        rig.machine.agent.environment = dict(rig.machine.agent_environment, NOTIFY_SOCKET=path, WATCHDOG_USEC="1000000")
        bus = rig.start()
        told("READY=1")
        told("WATCHDOG=1")
        bus.call("Reload")
        told("RELOADING=1")
        told("READY=1")
        assert rig.machine.agent.stop() == 0
        told("STOPPING=1")


def test_check_config(rig):
    def check(*arguments):
        return subprocess.run([rig.machine.install.agent, *arguments], env=rig.machine.agent_environment,
                              capture_output=True, text=True, timeout=30)
    assert check("--check-config").returncode == 0
    rig.machine.write_config("Colour=blue\n")
    done = check("--check-config")
    assert done.returncode == 1 and "holdpoint.conf:3" in done.stderr
    done = check()
    assert done.returncode == 1 and "holdpoint.conf:3" in done.stderr
    assert check("--nonsense").returncode == 2 and check("extra").returncode == 2
    assert check("--help").returncode == 0 and check("--version").stdout.startswith("holdpointd ")


def test_second_agent(rig, bus):
    account = pwd.getpwnam(rig.machine.agent.user)
    done = subprocess.run([rig.machine.install.agent], capture_output=True, text=True, timeout=30,
                          env=dict(rig.machine.agent_environment, STATE_DIRECTORY=rig.machine.state + "/second"),
                          user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/")
    assert done.returncode == 1 and "another agent" in done.stderr


def test_lost_bus(rig, bus):
    rig.machine.bus.close()
    assert rig.machine.agent.process.wait(10) not in (0, None)
    rig.clients.clear()


def test_object_manager(rig, bus):
    backup = rig.completed()
    objects = bus.call("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
    jobs = {p: i[JOB] for p, i in objects.items() if JOB in i}
    assert backup in [j["BackupId"] for j in jobs.values()]
    assert any(m == "InterfacesAdded" for _, m, _, _ in bus.signals)
    with pytest.raises(BusError):
        bus.get("Id", BUS_ROOT + "/job/_01", JOB)
