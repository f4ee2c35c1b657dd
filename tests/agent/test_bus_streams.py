"""Members whose answer is a pipe, or comes when the worker has ended; against workers of the test's own."""

import json
import os
import sys
import time
import uuid

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

from busclient import Client, JOB, variant  # noqa: E402
from busrig import Gate, bus, fails, install, rig  # noqa: E402, F401
from holdpoint import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the agent runs as another user")

YES = {"confirm": variant("b", True)}


def read_all(fd):
    with os.fdopen(fd, "rb") as f:
        return f.read()


def target(fd):
    return os.readlink("/proc/self/fd/%d" % fd)


def agent_fds(rig):
    return len(os.listdir("/proc/%d/fd" % rig.machine.agent.process.pid))


def last(rig, verb):
    return [r for _, r in rig.workers.requests if r["verb"] == verb][-1]


def write_and_end(data, **summary):
    """A handler that writes into the stream and is done."""
    def handler(worker):
        os.write(worker.fds[0], data)
        os.close(worker.fds.pop(0))
        worker.result(**summary)
    return handler


# --- streams --------------------------------------------------------------------------------------------------------

def test_list_files(rig, bus):
    backup = rig.completed()
    lines = b'{"path":"/a"}\n{"end":true,"entries":1}\n'
    rig.workers.handlers["list"] = write_and_end(lines, entries=1)
    before = agent_fds(rig)
    fd, (job,) = bus.stream("ListFiles", "sssa{sv}", [backup, "alpha", "/srv/a\\x0ab", {}])
    assert read_all(fd) == lines
    assert bus.wait_job(job) == ("done", {"entries": 1, "backup_id": backup})
    request = last(rig, "list")
    assert {k: request[k] for k in ("backup_id", "service", "path", "stream", "key", "into")} == {
        "backup_id": backup, "service": "alpha", "path": "/srv/a\\x0ab", "stream": True, "key": False, "into": False}
    assert bus.get("Type", job, JOB) == "list" and bus.get("BackupId", job, JOB) == backup
    wait_until(lambda: agent_fds(rig) <= before, "the agent to keep neither end")
    assert bus.stream("ListFiles", "sssa{sv}", [backup, "", "", {}])[0] >= 0
    fails("NoSuchService", bus.call, "ListFiles", "sssa{sv}", [backup, "beta", "", {}])
    fails("InvalidArgument", bus.call, "ListFiles", "sssa{sv}", [backup, "alpha", "a\nb", {}])
    fails("InvalidArgument", bus.call, "ListFiles", "sssa{sv}", [backup, "alpha", "a\\b", {}])
    assert "'depth'" in fails("InvalidArgument", bus.call, "ListFiles", "sssa{sv}",
                              [backup, "alpha", "", {"depth": variant("u", 1)}])


def test_open_backup(rig, bus):
    backup = rig.completed()
    key = os.memfd_create("key")
    os.write(key, b"PEM")

    def export(worker):
        assert os.pread(worker.fds[1], 100, 0) == b"PEM"
        write_and_end(b"tar", bytes=3)(worker)
    rig.workers.handlers["export"] = export
    options = {"format": variant("s", "tar.zst"), "service": variant("s", "alpha"), "path": variant("s", "uploads/a"),
               "key": variant("h", 0)}
    fd, (job,) = bus.stream("OpenBackup", "sa{sv}", [backup, options], fds=[key])
    assert read_all(fd) == b"tar" and bus.wait_job(job)[0] == "done"
    request = last(rig, "export")
    assert (request["format"], request["service"], request["path"], request["key"]) == (
        "tar.zst", "alpha", "uploads/a", True)
    rig.workers.handlers["export"] = write_and_end(b"")
    fd, (job,) = bus.stream("OpenBackup", "sa{sv}", [backup, {}])
    assert bus.wait_job(job)[0] == "done"
    os.close(fd)
    request = last(rig, "export")
    assert (request["format"], request["service"], request["path"], request["key"]) == ("tar", "", "", False)
    fails("InvalidArgument", bus.call, "OpenBackup", "sa{sv}", [backup, {"format": variant("s", "zip")}])
    fails("NoSuchService", bus.call, "OpenBackup", "sa{sv}", [backup, {"service": variant("s", "beta")}])
    with open("/dev/null", "w") as null:
        fails("InvalidArgument", bus.call, "OpenBackup", "sa{sv}", [backup, {"key": variant("h", 0)}], fds=[null.fileno()])
    os.close(key)


def test_diff(rig, bus):
    a, b, beta = rig.completed(), rig.completed(), rig.completed("beta")
    gate = Gate(write_and_end(b"{}\n"))
    rig.workers.handlers["diff"] = gate
    fd, (job,) = bus.stream("DiffBackups", "ssa{sv}", [a, b, {"service": variant("s", "alpha")}])
    assert gate.entered.wait(10)
    for used in (a, b):
        assert "uses backup" in fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [used, {}])
    gate.go.set()
    assert read_all(fd) == b"{}\n" and bus.wait_job(job)[0] == "done"
    request = last(rig, "diff")
    assert (request["backup_id"], request["other_id"], request["service"]) == (a, b, "alpha")
    os.close(bus.stream("DiffBackups", "ssa{sv}", [a, beta, {"service": variant("s", "beta")}])[0])
    fails("NoSuchService", bus.call, "DiffBackups", "ssa{sv}", [a, b, {"service": variant("s", "beta")}])
    fails("NoSuchBackup", bus.call, "DiffBackups", "ssa{sv}", [a, str(uuid.uuid4()), {}])


def test_reader_that_leaves(rig, bus):
    """The worker sees it at once: nobody but the caller has the read end."""
    backup, seen = rig.completed(), []

    def export(worker):
        try:
            while True:
                os.write(worker.fds[0], b"x" * 65536)
        except BrokenPipeError:
            seen.append(True)
            worker.result("canceled", "Canceled")
    rig.workers.handlers["export"] = export
    fd, (job,) = bus.stream("OpenBackup", "sa{sv}", [backup, {}])
    os.read(fd, 100)
    os.close(fd)
    assert bus.wait_job(job)[0] == "canceled" and seen == [True]


def test_worker_without_the_verb(rig, bus):
    backup = rig.completed()
    rig.workers.handlers["list"] = lambda w: w.result("failed", "InvalidArgument")
    fd, (job,) = bus.stream("ListFiles", "sssa{sv}", [backup, "", "", {}])
    assert bus.wait_job(job)[0] == "failed" and read_all(fd) == b""


def test_import(rig, bus):
    read, write = os.pipe()
    os.write(write, b"a tar")
    os.close(write)

    def import_(worker):
        assert read_all(worker.fds.pop(0)) == b"a tar"
        worker.send("backup", backup=worker.record(backup_type="alpha"))
        worker.result()
    rig.workers.handlers["import"] = import_
    backup, job = bus.call("ImportBackup", "hsa{sv}", [0, "from elsewhere", {"description": variant("s", "old")}], fds=[read])
    os.close(read)
    assert bus.wait_job(job)[0] == "done" and bus.wait_signal("BackupAdded") == [backup]
    row = bus.call("GetBackup", "s", [backup])
    assert (row["status"], row["backup_name"], row["description"], row["created_by"], row["services"]) == (
        "completed", "from elsewhere", "old", "uid:0", ["alpha"])
    assert bus.call("GetJob", "u", [int(job.rpartition("_")[2])])["type"] == "import"
    with open("/dev/null", "w") as null:
        fails("InvalidArgument", bus.call, "ImportBackup", "hsa{sv}", [0, "a", {}], fds=[null.fileno()])
    fails("InvalidArgument", bus.call, "ImportBackup", "hsa{sv}", [0, "", {}], fds=[0])
    rig.workers.handlers["import"] = lambda w: w.result("failed", "IntegrityFailure")
    with open("/etc/passwd") as file:
        backup, job = bus.call("ImportBackup", "hsa{sv}", [0, "bad", {}], fds=[file.fileno()])
    assert bus.wait_job(job)[0] == "failed"
    assert bus.call("GetBackup", "s", [backup])["status"] == "failed"


# --- answers that wait ----------------------------------------------------------------------------------------------

def test_pin(rig, bus):
    backup = rig.completed()
    assert bus.call("PinBackup", "sb", [backup, True]) is None
    assert bus.call("GetBackup", "s", [backup])["pinned"] is True
    bus.call("PinBackup", "sb", [backup, False])
    assert bus.call("GetBackup", "s", [backup])["pinned"] is False
    assert bus.call("ListJobs", "a{sv}", [{}])[0]["type"] == "pin"
    rig.workers.handlers["pin"] = lambda w: w.result("failed", "NoSpace")
    assert "the worker says" in fails("NoSpace", bus.call, "PinBackup", "sb", [backup, True])
    rig.workers.handlers["pin"] = lambda w: w.result()  # without the record
    fails("Internal", bus.call, "PinBackup", "sb", [backup, True])
    rig.workers.handlers["pin"] = lambda w: w.send("backup", backup=dict(rig.workers.repository[backup],
                                                                         backup_id=str(uuid.uuid4())))
    fails("Internal", bus.call, "PinBackup", "sb", [backup, True])
    rig.workers.handlers["pin"] = lambda w: None
    fails("Interrupted", bus.call, "PinBackup", "sb", [backup, True])
    assert bus.call("GetBackup", "s", [backup])["pinned"] is False


def test_pin_waits_for_its_turn(rig, bus):
    backup = rig.completed()
    gate = Gate(lambda w: (w.send("backup", backup=w.record()), w.result()))
    rig.workers.handlers["create"] = gate
    bus.create()
    pin = bus.start("PinBackup", "sb", [backup, True])
    assert gate.entered.wait(10)
    bus.run_for(0.3)
    assert not pin.done()
    fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [backup, {}])
    gate.go.set()
    assert bus.finish(pin) is None


def test_plan(rig, bus):
    backup = rig.completed()
    plan = {"method": "subvolume", "copy": "hot", "bytes": 12, "units": ["a.service"], "possible": True,
            "carried": [{"path": "/srv/a/thumbnails", "bytes": 7, "same": True}], "space": {"needed": 5}}
    rig.workers.handlers["plan"] = lambda w: w.result(**plan)
    options = {"paths": variant("as", ["uploads", "a\\x5cb"]), "from": variant("s", "hot"),
               "allow_partial": variant("b", True)}
    raw = bus.call("PlanRestore", "ssa{sv}", [backup, "alpha", options], raw=True).body[0]
    assert {k: raw[k].signature for k in plan} == {"method": "s", "copy": "s", "bytes": "t", "units": "as",
                                                   "possible": "b", "carried": "aa{sv}", "space": "a{sv}"}
    assert raw["carried"].value[0]["bytes"].value == 7
    request = last(rig, "plan")
    assert (request["restore_type"], request["from"], request["paths"], request["allow_partial"]) == (
        "alpha", "hot", ["uploads", "a\\x5cb"], True)
    assert bus.call("ListRestores", "a{sv}", [{}]) == []
    rig.workers.handlers["plan"] = lambda w: w.result("failed", "NotRestorable")
    fails("NotRestorable", bus.call, "PlanRestore", "ssa{sv}", [backup, "full", {}])
    fails("InvalidArgument", bus.call, "PlanRestore", "ssa{sv}", [backup, "full", YES])
    fails("NoSuchService", bus.call, "PlanRestore", "ssa{sv}", [backup, "beta", {}])
    for bad in ([], ["a\\b"], [""], ["a"] * 1001):
        fails("InvalidArgument", bus.call, "PlanRestore", "ssa{sv}", [backup, "full", {"paths": variant("as", bad)}])


def test_restore_paths_and_key(rig, bus, tmp_path):
    backup = rig.completed()
    seen = []

    def restore(worker):
        seen.append((worker.request["paths"], worker.request["key"], [target(fd) for fd in worker.fds]))
        worker.result()
    rig.workers.handlers["restore"] = restore
    (tmp_path / "key").write_text("PEM")
    directory, key = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "key", os.O_RDONLY)
    options = dict(YES, paths=variant("as", ["uploads/a.png"]), key=variant("h", 0), directory=variant("h", 1))
    _, job = bus.call("RestoreBackup", "ssa{sv}", [backup, "alpha", options], fds=[key, directory])
    assert bus.wait_job(job)[0] == "done"
    _, job = bus.call("RestoreBackup", "ssa{sv}", [backup, "alpha", dict(YES, key=variant("h", 0))], fds=[key])
    assert bus.wait_job(job)[0] == "done"
    assert seen == [(["uploads/a.png"], True, [str(tmp_path), str(tmp_path / "key")]),
                    ([], True, [str(tmp_path / "key")])]
    fails("InvalidArgument", bus.call, "RestoreBackup", "ssa{sv}", [backup, "alpha", dict(YES, key=variant("h", 0))],
          fds=[directory])
    long = ["\\x5c" * 1000] * 15  # each backslash is two in a message to the worker
    fails("InvalidArgument", bus.call, "RestoreBackup", "ssa{sv}", [backup, "alpha", dict(YES, paths=variant("as", ["\\"]))])
    _, job = bus.call("RestoreBackup", "ssa{sv}", [backup, "alpha", dict(YES, paths=variant("as", long))])
    assert bus.wait_job(job)[0] == "done" and seen[-1][0] == long
    os.close(directory)
    os.close(key)


def test_verify_depths(rig, bus):
    backup = rig.completed()
    classes = []
    rig.workers.handlers["verify"] = lambda w: (
        w.send("backup", backup=dict(rig.workers.repository[backup], metadata='{"verified":1}')), w.result())
    for depth, class_ in (("metadata", "maintain"), ("data", "maintain"), ("restore", "restore")):
        job = bus.call("VerifyBackup", "sa{sv}", [backup, {"depth": variant("s", depth)}])
        assert bus.wait_job(job)[0] == "done" and bus.get("Type", job, JOB) == "verify"
        classes.append(next(c for c, r in reversed(rig.workers.requests) if r["verb"] == "verify"))
        assert classes[-1] == class_ and last(rig, "verify")["depth"] == depth
    assert json.loads(bus.call("GetBackup", "s", [backup])["metadata"]) == {"verified": 1}
    with open("/etc/passwd") as key:
        options = {"depth": variant("s", "restore"), "key": variant("h", 0)}
        assert bus.wait_job(bus.call("VerifyBackup", "sa{sv}", [backup, options], fds=[key.fileno()]))[0] == "done"
        assert last(rig, "verify")["key"] is True
        fails("InvalidArgument", bus.call, "VerifyBackup", "sa{sv}", [backup, {"key": variant("h", 0)}], fds=[key.fileno()])


def test_prune(rig, bus):
    old, kept, odd = rig.completed(), rig.completed(), str(uuid.uuid4())

    def prune(worker):
        worker.send("removed", backup_id=old)
        worker.send("backup", backup=dict(rig.workers.repository[kept], copies=["local", "hot"]))
        worker.send("backup", backup=dict(rig.workers.repository[kept], backup_id=odd))  # gone meanwhile
        worker.send("space", stored_bytes=11, free_bytes=22)
        worker.result(dry_run=worker.request["dry_run"], backups=[old], freed_bytes=5)
    rig.workers.handlers["prune"] = prune
    result, summary = bus.wait_job(bus.call("Prune", "a{sv}", [{"dry_run": variant("b", True)}]))
    assert result == "done" and summary["dry_run"] is True and summary["backups"] == [old]
    assert bus.wait_signal("BackupRemoved") == [old]
    fails("NoSuchBackup", bus.call, "GetBackup", "s", [old])
    fails("NoSuchBackup", bus.call, "GetBackup", "s", [odd])
    assert bus.call("GetBackup", "s", [kept])["copies"] == ["local", "hot"]
    assert bus.get("StoredBytes") == 11 and bus.get("BackupCount") == 1
    rig.workers.handlers["prune"] = lambda w: w.send("removed", backup_id="all")
    assert bus.wait_job(bus.call("Prune", "a{sv}", [{}]))[0] == "failed"
    rig.workers.handlers["verify"] = lambda w: w.send("removed", backup_id=kept)
    assert bus.wait_job(bus.call("VerifyBackup", "sa{sv}", [kept, {}]))[0] == "failed"
    assert bus.call("GetBackup", "s", [kept])["status"] == "completed"


def test_repository(rig, bus):
    rig.workers.handlers["repository"] = lambda w: w.result(path="/var/backups", packs=3, private_key=True,
                                                            recipients=[{"id": "ab", "label": "x"}],
                                                            features={"read": ["a"], "write": []})
    facts = bus.call("GetRepository", "a{sv}", [{}])
    assert facts == {"path": "/var/backups", "packs": 3, "private_key": True,
                     "recipients": [{"id": "ab", "label": "x"}], "features": {"read": ["a"], "write": []}}
    fails("InvalidArgument", bus.call, "GetRepository", "a{sv}", [{"deep": variant("b", True)}])


def test_keys(rig, bus):
    before = agent_fds(rig)
    rig.workers.handlers["export-key"] = write_and_end(b"PEM")
    fd, _ = bus.stream("ExportRecoveryKey", "a{sv}", [{}])
    assert read_all(fd) == b"PEM" and last(rig, "export-key")["stream"] is True
    rig.workers.handlers["export-key"] = lambda w: w.result("failed", "KeyMissing")
    fails("KeyMissing", bus.call, "ExportRecoveryKey", "a{sv}", [{}])
    seen = []
    rig.workers.handlers["prove-key"] = lambda w: (seen.append(os.read(w.fds[0], 10)), w.result())
    read, write = os.pipe()
    os.write(write, b"PEM")
    assert bus.call("ProveRecoveryKey", "h", [0], fds=[read]) is None
    assert seen == [b"PEM"]
    fails("InvalidArgument", bus.call, "ProveRecoveryKey", "h", [0], fds=[write])
    assert bus.call("ForgetPrivateKey", "a{sv}", [{}]) is None
    assert [c for c, r in rig.workers.requests if r["verb"].endswith("-key")] == ["configure"] * 4
    assert {j["type"] for j in bus.call("ListJobs", "a{sv}", [{}])} == {"configure", "reconcile"}
    os.close(read)
    os.close(write)
    wait_until(lambda: agent_fds(rig) <= before, "the agent to close what it was given")


def test_caller_that_leaves(rig, bus):
    """A held answer goes with its caller: a reading job is canceled, a writing one goes on."""
    backup = rig.completed()

    def wait_for_cancel(worker):
        entered.append(worker.verb)
        message = worker.receive(20)
        got.append((worker.verb, message))
        worker.result(*(("canceled", "Canceled") if message else ()))
    entered, got = [], []
    rig.workers.handlers["plan"] = wait_for_cancel
    gate = Gate(lambda w: (w.send("backup", backup=dict(rig.workers.repository[backup], pinned=True)), w.result()))
    rig.workers.handlers["pin"] = gate
    with Client(rig.machine.bus.address, signals=False) as gone:
        plan = gone.start("PlanRestore", "ssa{sv}", [backup, "full", {}])
        pin = gone.start("PinBackup", "sb", [backup, True])
        end = time.monotonic() + 10
        while not (entered and gate.entered.is_set()) and time.monotonic() < end:
            gone.run_for(0.05)
        assert entered == ["plan"]
        plan.cancel()
        pin.cancel()
    wait_until(lambda: got == [("plan", {"type": "cancel"})], "the plan to be canceled")
    gate.go.set()
    wait_until(lambda: bus.call("GetBackup", "s", [backup])["pinned"], "the pin")
    results = {j["type"]: j["result"] for j in bus.call("ListJobs", "a{sv}", [{}])}
    assert results["plan"] == "canceled" and results["pin"] == "done"


def test_held_when_the_agent_stops(rig, bus):
    backup = rig.completed()
    rig.workers.handlers["plan"] = lambda w: w.receive(20)
    plan = bus.start("PlanRestore", "ssa{sv}", [backup, "full", {}])
    bus.run_for(0.3)
    assert rig.machine.agent.stop() == 0
    fails("Interrupted", bus.finish, plan)
