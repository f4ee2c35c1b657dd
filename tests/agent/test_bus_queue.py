"""Who runs when, who is refused, and what a job tells of itself; against workers of the test's own."""

import os
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

import fakeclock  # noqa: E402
import memory  # noqa: E402
from busclient import BusError, Client, JOB, variant  # noqa: E402
from busrig import Gate, bus, fails, install, rig  # noqa: E402, F401
from holdpoint import BUS_ROOT, wait_until  # noqa: E402
from polkit import Polkit, call_as, readable_lib  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the agent runs as another user")

YES = {"confirm": variant("b", True)}
EVERYBODY = "polkit.addRule(function(action, subject) { return polkit.Result.YES; });"


def agent_fds(rig):
    return len(os.listdir("/proc/%d/fd" % rig.machine.agent.process.pid))


def agent_rss_mib(rig):
    with open("/proc/%d/status" % rig.machine.agent.process.pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def finish_create(worker):
    worker.send("backup", backup=worker.record())
    worker.result()


# --- the two lines --------------------------------------------------------------------------------------------------

READERS = {
    "list": ("ListFiles", "sssa{sv}", ["", "", {}]), "export": ("OpenBackup", "sa{sv}", [{}]),
    "diff": ("DiffBackups", "ssa{sv}", None), "verify": ("VerifyBackup", "sa{sv}", [{}]),
}


def start_reader(client, verb, backup):
    member, signature, rest = READERS[verb]
    reply = client.call(member, signature, [backup, *(rest if rest is not None else [backup, {}])], raw=True)
    return reply.body[-1], reply.unix_fds


def test_at_most_four_readers(rig, bus):
    """Of all kinds and from several clients, in the order in which they came, beside one that writes."""
    backup = rig.completed()
    order, gate = [], threading.Semaphore(0)

    def reader(worker):
        order.append(worker.request["job"])
        assert gate.acquire(timeout=30)
        worker.result()
    for verb in (*READERS, "plan", "repository"):
        rig.workers.handlers[verb] = reader
    writing = Gate(finish_create)
    rig.workers.handlers["create"] = writing
    _, create = bus.create()
    clients = [Client(rig.machine.bus.address, signals=False) for _ in range(3)]
    jobs, fds = [], []
    for i in range(7):
        job, more = start_reader(clients[i % 3], list(READERS)[i % 4], backup)
        jobs.append(job)
        fds += more
    assert writing.entered.wait(10)
    wait_until(lambda: len(order) == 4, "four readers")
    bus.run_for(0.2)
    numbers = [int(j.rpartition("_")[2]) for j in jobs]
    assert sorted(order) == numbers[:4]
    assert [bus.get("State", j, JOB) for j in jobs] == ["running"] * 4 + ["queued"] * 3
    assert len(bus.get("RunningJobs")) == 5 and bus.get("State", create, JOB) == "running"
    held = clients[0].start("GetRepository", "a{sv}", [{}])  # waits in the same line
    clients[0].run_for(0.2)
    for i in range(8):
        gate.release()
        wait_until(lambda: len(order) >= min(5 + i, 8), "the next reader")
    assert order[4:7] == numbers[4:] and clients[0].finish(held) == {}
    for job in jobs:
        assert bus.wait_job(job)[0] == "done"
    writing.go.set()
    assert bus.wait_job(create)[0] == "done"
    for fd in fds:
        os.close(fd)
    for client in clients:
        client.close()


def test_hammering(rig, bus):
    """Many clients at once: every call is answered, what was taken is done in its order, the rest is QueueFull."""
    done = []
    rig.workers.handlers["create"] = lambda w: (done.append(w.request["job"]), finish_create(w))
    before = agent_fds(rig)
    clients = [Client(rig.machine.bus.address, signals=False) for _ in range(20)]
    bus.signals.clear()
    began = time.monotonic()
    calls = [(c, c.start("CreateBackup", "ssa{sv}", ["alpha", "a", {}])) for _ in range(10) for c in clients]
    taken, refused = [], 0
    for client, call in calls:
        try:
            taken.append(client.finish(call)[1])
        except BusError as error:
            assert error.short == "QueueFull", error
            refused += 1
    assert len(taken) + refused == 200 and taken and refused
    for job in taken:
        assert bus.wait_job(job, timeout=30)[0] == "done"
    assert done == sorted(done) and len(done) == len(taken)
    told = [s for s in bus.signals if s[0] == BUS_ROOT and s[1] == "PropertiesChanged"]
    assert len(told) <= 4 * (time.monotonic() - began) + 4, len(told)
    assert bus.call("ListBackups", "a{sv}", [{"limit": variant("u", 1)}])[0] == len(taken)
    for client in clients:
        client.close()
    wait_until(lambda: agent_fds(rig) <= before, "the agent's descriptors to be as before")


def test_users_have_their_own_limit(rig):
    """One who fills their part of the queue leaves room for others."""
    bus = rig.start()
    gate = Gate(finish_create)
    rig.workers.handlers["create"] = gate
    create = ("CreateBackup", "ssa{sv}", ["alpha", "a", {}], {})
    with Polkit(rig.machine, EVERYBODY):
        mine = [bus.create()[1] for _ in range(5)]
        fails("QueueFull", bus.create)
        assert call_as("nobody", rig.machine, [create] * 5) == [""] * 4 + ["QueueFull"]
        fails("QueueFull", bus.create)
        gate.go.set()
        for job in mine:
            bus.wait_job(job, timeout=30)
    rows = bus.call("ListBackups", "a{sv}", [{}])[1]
    assert {r["created_by"] for r in rows} == {"uid:0", "uid:65534"} and len(rows) == 9


@pytest.mark.parametrize("verb", [*READERS, "plan", "pin", "restore"])
def test_delete_of_what_is_used(rig, bus, verb):
    """By jobs of any kind, whether they wait or run."""
    backup, other = rig.completed(), rig.completed()
    gate = Gate()
    rig.workers.handlers[verb] = gate
    waiting = Gate(finish_create)
    held, fds = None, []
    if verb in ("pin", "restore"):  # behind one that writes
        rig.workers.handlers["create"] = waiting
        bus.create()
    if verb == "plan":
        held = bus.start("PlanRestore", "ssa{sv}", [backup, "full", {}])
    elif verb == "pin":
        held = bus.start("PinBackup", "sb", [backup, True])
    elif verb == "restore":
        bus.call("RestoreBackup", "ssa{sv}", [backup, "full", YES])
    else:
        fds = start_reader(bus, verb, backup)[1]
    bus.run_for(0.1)
    assert "uses backup" in fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [backup, {}])
    waiting.go.set()
    assert gate.entered.wait(10)
    fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [backup, {}])
    assert bus.wait_job(bus.call("DeleteBackup", "sa{sv}", [other, {}])) [0] == "done" if verb in READERS else True
    gate.go.set()
    if held:
        try:
            bus.finish(held)
        except BusError as error:
            assert error.short == "Internal"  # a pin that sent no record
    wait_until(lambda: not bus.get("RunningJobs"), "all jobs to end")
    assert bus.wait_job(bus.call("DeleteBackup", "sa{sv}", [backup, {}]))[0] == "done"
    for fd in fds:
        os.close(fd)


def test_reader_that_does_not_read(rig, bus):
    """Its worker waits at a full pipe; everything else goes on, and the agent has no part in it."""
    backup, blocked = rig.completed(), threading.Event()

    def export(worker):
        os.set_blocking(worker.fds[0], False)
        try:
            while True:
                os.write(worker.fds[0], b"x" * 4096)
        except BlockingIOError:
            blocked.set()
        os.set_blocking(worker.fds[0], True)
        try:
            os.write(worker.fds[0], b"x")
        except BrokenPipeError:
            worker.result("canceled", "Canceled")
    rig.workers.handlers["export"] = export
    job, fds = start_reader(bus, "export", backup)
    assert blocked.wait(10)
    assert bus.call("GetStatus", "a{sv}", [{}])["state"] == "running"
    rig.completed()
    os.close(fds[0])
    assert bus.wait_job(job)[0] == "canceled"


# --- what the agent keeps ---------------------------------------------------------------------------------------------

def test_descriptors_are_not_kept(rig, bus):
    """Calls with as many descriptors as the bus lets through, refused and granted, from people who may and who may not."""
    backup = rig.completed()
    before = agent_fds(rig)
    read, write = os.pipe()
    fds = [read] * 16
    for _ in range(100):
        bus.call("GetStatus", "a{sv}", [{}], fds=fds)
        fails("InvalidArgument", bus.call, "ProveRecoveryKey", "h", [1], fds=[read, write])
        fails("InvalidArgument", bus.call, "RestoreBackup", "ssa{sv}",
              [backup, "full", dict(YES, key=variant("h", 3), directory=variant("h", 2))], fds=fds)
        fails("org.freedesktop.DBus.Error.InvalidArgs", bus.call, "ProveRecoveryKey", "h", [7], fds=[read])
    script = """
import os, sys
sys.path.insert(0, sys.argv[1])
from busclient import BusError, Client
clients = [Client(sys.argv[2], signals=False) for _ in range(8)]
fds = [os.open("/dev/null", os.O_RDONLY)] * 16
calls = [(c, c.start("GetStatus", "a{sv}", [{}], fds=fds)) for _ in range(50) for c in clients]
for client, call in calls:
    try:
        client.finish(call)
        sys.exit("granted")
    except BusError as error:
        assert error.name.endswith((".AccessDenied", ".LimitsExceeded")), error
"""
    done = subprocess.run([sys.executable, "-B", "-c", script, readable_lib(rig.machine), rig.machine.bus.address],
                          user="nobody", group="nogroup", extra_groups=[], cwd="/", timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: agent_fds(rig) <= before, "the agent to close everything")
    assert bus.call("GetStatus", "a{sv}", [{}])["state"] == "idle"
    os.close(read)
    os.close(write)


def test_memory_is_bounded(rig, bus):
    """Many jobs that say as much as a message holds."""
    rig.workers.handlers["repository"] = lambda w: w.result(words=["x" * 1000] * 100)
    for _ in range(60):
        assert len(bus.call("GetRepository", "a{sv}", [{}])["words"]) == 100
    objects = bus.call("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
    assert len(objects) < 40
    assert not memory.is_measurable() or agent_rss_mib(rig) < 48, agent_rss_mib(rig)


# --- what jobs tell -------------------------------------------------------------------------------------------------

def test_list_jobs_options(rig, bus):
    def listed(**options):
        return bus.call("ListJobs", "a{sv}", [options])
    backups = [rig.completed() for _ in range(3)]
    gate = Gate(finish_create)
    rig.workers.handlers["create"] = gate
    jobs = [bus.create()[1] for _ in range(3)]
    assert gate.entered.wait(10)
    everything = listed()
    assert [j["id"] for j in everything] == sorted((j["id"] for j in everything), reverse=True)
    assert [j["job"] for j in listed(state=variant("s", "queued"))] == [jobs[2], jobs[1]]
    assert [j["job"] for j in listed(state=variant("s", "running"))] == [jobs[0]]
    assert listed(state=variant("s", "canceling")) == []
    finished = listed(state=variant("s", "finished"))
    assert {j["state"] for j in finished} == {"finished"} and len(finished) == len(everything) - 3
    assert listed(limit=variant("u", 2), page=variant("u", 2)) == everything[2:4]
    assert [j["job"] for j in listed(state=variant("s", "queued"), limit=variant("u", 1), page=variant("u", 2))] == [jobs[1]]
    assert listed(page=variant("u", 4294967295)) == []
    assert [j["type"] for j in listed(type=variant("s", "reconcile"))] == ["reconcile"]
    assert [j["backup_id"] for j in listed(backup_id=variant("s", backups[1]))] == [backups[1]]
    for key, bad in (("limit", variant("u", 0)), ("limit", variant("u", 501)), ("page", variant("u", 0)),
                     ("state", variant("s", "done")), ("type", variant("s", "' OR 1")), ("backup_id", variant("s", "1"))):
        assert key in fails("InvalidArgument", listed, **{key: bad})
    gate.go.set()
    for job in jobs:
        bus.wait_job(job)
    bus_ = rig.restart(kill=True)
    assert [j["type"] for j in bus_.call("ListJobs", "a{sv}", [{"type": variant("s", "backup")}])] == ["backup"] * 6


def test_interrupted_jobs_are_listed(rig, bus):
    gate = Gate()
    rig.workers.handlers["create"] = gate
    jobs = [bus.create()[1] for _ in range(2)]
    assert gate.entered.wait(10)
    bus = rig.restart(kill=True)
    gate.go.set()
    rows = bus.call("ListJobs", "a{sv}", [{"state": variant("s", "finished"), "type": variant("s", "backup")}])
    assert [(j["job"], j["result"]) for j in rows] == [(jobs[1], "interrupted"), (jobs[0], "interrupted")]
    assert all(j["error_name"].endswith(".Interrupted") and j["error_message"] for j in rows)


def test_rate_and_end(rig, bus):
    """Unknown until measured, near the truth then, gone at the end; whatever totals a worker claims."""
    gate = Gate(finish_create)
    rig.workers.handlers["create"] = gate
    _, job = bus.create()
    assert gate.entered.wait(10)

    def progress(done, total):
        gate.worker.send("progress", bytes_done=done, bytes_total=total, files_done=1, files_total=0)
        bus.run_for(0.1)
    progress(0, 0)
    got = bus.get_all(job)
    assert got["Rate"] == got["ExpectedEndUSec"] == got["BytesTotal"] == 0 and got["Progress"] == 0
    for i in range(1, 26):
        progress(i * 100_000, 10_000_000)
    got = bus.get_all(job)
    assert 300_000 < got["Rate"] <= 1_000_000, got["Rate"]  # at most a million a second was sent
    left = (10_000_000 - 2_500_000) / got["Rate"]
    assert abs(got["ExpectedEndUSec"] / 1e6 - time.time() - left) < 2
    progress(2_600_000, 2**62)
    got = bus.get_all(job)
    assert got["ExpectedEndUSec"] == 0 and got["Progress"] == 0.25
    progress(2**62, 2**62)
    assert bus.get("Progress", job, JOB) == 0.99
    gate.go.set()
    assert bus.wait_job(job)[0] == "done"
    assert bus.get("Progress", job, JOB) == 1 and bus.get("ExpectedEndUSec", job, JOB) == 0


@pytest.mark.parametrize("send", [
    lambda w: w.send("removed", backup_id=w.request.get("backup_id", "")),
    lambda w: w.send("result", result="done", summary=[1]),
    lambda w: w.send("result", result="done", summary={"a": None}),
    lambda w: w.send("result", result="done", summary={"a": [1]}),
    lambda w: w.send("result", result="done", summary={"a": [{"b": [1]}]}),
    lambda w: w.send("result", result="done", summary={"a": [{"b": 1}, "c"]}),
    lambda w: w.send("result", result="done", summary={"a": {"b": {"c": {"d": {"e": {}}}}}}),
    lambda w: w.send("result", result="done", summary={"a": -1}),
    lambda w: w.send("result", result="done", summary={"a": "b\x07"}),
    lambda w: w.send("result", result="done", summary={"": 1}),
    lambda w: w.send("result", result="done", summary={str(i): 1 for i in range(65)}),
    lambda w: w.send_raw(b'{"type":"result","result":"done","summary":{"a":"\xff"}}'),
    lambda w: w.send_raw(b'{"type":"progress","bytes_done":1e400,"bytes_total":1,"files_done":0,"files_total":0}'),
    lambda w: w.send_raw(b'[' * 100000),
    lambda w: w.send_raw(b""),
])
def test_malformed_answers(rig, bus, send):
    """A caller that waits is told, too."""
    backup = rig.completed()
    rig.workers.handlers["plan"] = lambda w: (send(w), w.receive())
    with pytest.raises(BusError) as caught:
        bus.call("PlanRestore", "ssa{sv}", [backup, "full", {}])
    assert caught.value.short in ("Internal", "Interrupted")
    assert bus.call("GetBackup", "s", [backup])["status"] == "completed"


def test_reload_during_a_job(rig, bus):
    """A job that runs stays as it is, also when its service has gone; a bad file changes nothing."""
    backup = rig.completed()
    gate = Gate(finish_create)
    rig.workers.handlers["create"] = gate
    _, job = bus.create()
    queued = bus.create()[1]
    assert gate.entered.wait(10)
    os.unlink(os.path.join(rig.machine.etc, "services.d", "alpha.conf"))
    bus.call("Reload")
    assert bus.get("Services") == ["beta"] and bus.get("Overdue") == ["beta"]
    assert bus.get("State", job, JOB) == "running" and bus.get("State", queued, JOB) == "queued"
    fails("NoSuchService", bus.create)
    with open(os.path.join(rig.machine.etc, "services.d", "beta.conf"), "a") as f:
        f.write("Colour=blue\n")
    assert "beta.conf:" in fails("ConfigurationInvalid", bus.call, "Reload")
    assert bus.get("Services") == ["beta"]
    gate.go.set()
    assert bus.wait_job(job)[0] == "done" and bus.wait_job(queued)[0] == "done"
    assert bus.call("GetBackup", "s", [backup])["services"] == ["alpha"]


def test_reload_with_another_repository(rig, bus):
    """Other backups: the catalogue follows."""
    rig.completed()
    rig.workers.repository.clear()
    rig.machine.repository += "-other"
    rig.machine.write_config()
    bus.call("Reload")
    wait_until(lambda: bus.call("ListBackups", "a{sv}", [{}])[0] == 0, "the catalogue to follow")


# --- time -----------------------------------------------------------------------------------------------------------

DAY = 86400


@pytest.fixture
def wallclock(rig):
    """Makes the agent's clock wrong: set(seconds of real time, seconds since boot)."""
    return fakeclock.WallClock(rig.machine, rig.machine.agent).set


def text(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def test_clock_set_back(rig, wallclock):
    """A day back: jobs stay in their order, and a service does not look fresh for a day more."""
    bus = rig.start()
    first = rig.completed(created_at=text(time.time()))
    rig.completed("beta", created_at=text(time.time()))
    assert bus.get("Overdue") == []
    wallclock(real=-DAY)
    second = rig.completed("beta", created_at=text(time.time() - DAY))
    jobs = bus.call("ListJobs", "a{sv}", [{"type": variant("s", "backup")}])
    assert [j["backup_id"] for j in jobs][0] == second and jobs[-1]["backup_id"] == first
    for options in ({}, {"service": variant("s", "beta"), "limit": variant("u", 1)}):
        assert bus.call("ListBackups", "a{sv}", [options])[1][0]["backup_id"] == second  # the newest, whatever its time
    status = {s["service"]: s for s in bus.call("GetStatus", "a{sv}", [{}])["service_status"]}
    assert status["beta"]["last_backup_id"] == second
    assert jobs[0]["finished_usec"] < jobs[-1]["finished_usec"]
    assert bus.get("Overdue") == [] and bus.get("SuccessRate") == 1
    bus.signals.clear()
    wallclock(real=-DAY + 27 * 3600, boot=27 * 3600)  # the clock alone would still allow a day
    bus.call("GetStatus", "a{sv}", [{}])  # something that happens
    assert bus.wait_signal("ServiceOverdue", lambda _, b: b[0] == "alpha")
    assert "alpha" in bus.get("Overdue")
    with open(rig.machine.agent_log) as f:
        assert "Service 'alpha' is overdue" in f.read()


def test_clock_at_the_beginning(rig, wallclock):
    """A machine without a clock of its own begins in 1970: nothing is forgotten for that."""
    bus = rig.start()
    rig.completed()
    wallclock(real=3600 - int(time.time()))
    rig.completed()
    assert len(bus.call("ListJobs", "a{sv}", [{"type": variant("s", "backup")}])) == 2
    assert bus.get("SuccessRate") == 1


def test_older_catalogue(rig, bus):
    """One of the first schema is brought up to date, and keeps its rows in their order."""
    ids = [rig.completed(created_at="2024-01-15T02:00:%02dZ" % i) for i in range(3)]
    rig.machine.agent.stop()
    with rig.catalogue() as db:
        db.executescript("DROP INDEX backup_records_by_place; ALTER TABLE backup_records DROP COLUMN place;"
                         "CREATE INDEX backup_records_by_time ON backup_records (created_at DESC, id DESC);"
                         "PRAGMA user_version = 1")
    bus = rig.start()
    assert [r["backup_id"] for r in bus.call("ListBackups", "a{sv}", [{}])[1]] == ids[::-1]
    newest = rig.completed(created_at=text(time.time()))
    assert bus.call("ListBackups", "a{sv}", [{"limit": variant("u", 1)}])[1][0]["backup_id"] == newest


def test_overdue_comes_with_time(rig, wallclock):
    """The agent's own timer, whatever schedules there are."""
    bus = rig.start()
    rig.completed(created_at=text(time.time()))
    assert bus.get("Overdue") == ["beta"]
    bus.signals.clear()
    wallclock(real=25 * 3600, boot=25 * 3600)
    bus.call("GetStatus", "a{sv}", [{}])
    assert bus.get("Overdue") == ["beta"]
    wallclock(real=27 * 3600, boot=27 * 3600)
    bus.call("GetStatus", "a{sv}", [{}])
    assert bus.wait_signal("ServiceOverdue")[0] == "alpha"
    assert bus.get("Overdue") == ["alpha", "beta"]
    rig.completed(created_at=text(time.time() + 27 * 3600))
    assert bus.get("Overdue") == ["beta"]


def test_a_finished_object_stays_five_minutes(rig, wallclock):
    """Then it goes, and its record stays; by no clock that anybody sets."""
    bus = rig.start()
    rig.completed()
    job, = (j["job"] for j in bus.call("ListJobs", "a{sv}", [{"type": variant("s", "backup")}]))

    def objects():
        return bus.call("GetManagedObjects", interface="org.freedesktop.DBus.ObjectManager")
    wallclock(real=DAY, boot=DAY)
    assert bus.get("State", job, JOB) == "finished" and job in objects()
    wallclock(monotonic=290)
    bus.call("GetStatus", "a{sv}", [{}])
    assert bus.get("Result", job, JOB) == "done" and job in objects()
    wallclock(monotonic=302)
    bus.call("GetStatus", "a{sv}", [{}])  # something that happens
    assert JOB in bus.wait_signal("InterfacesRemoved", lambda _, b: b[0] == job)[1]
    assert job not in objects()
    with pytest.raises(BusError):
        bus.get("State", job, JOB)
    record = bus.call("GetJob", "u", [int(job.rpartition("_")[2])])
    assert (record["job"], record["state"], record["result"]) == (job, "finished", "done")
