"""Several users at once, with real workers: who waits, who is refused, who leaves in the middle; nothing hangs.

A watchdog ends each test with the stacks of its threads. HOLDPOINT_TEST_STEPS=N makes the storm go on for longer.
"""

import contextlib
import faulthandler
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest

import holdpoint
import memory
import sites
import worker
from busclient import BusError, Client, variant
from busrig import fails

WATCHDOG_SECONDS = 240
STEPS = int(os.environ.get("HOLDPOINT_TEST_STEPS", "30"))
SEED = int(os.environ.get("HOLDPOINT_TEST_SEED", "1"))


@pytest.fixture(autouse=True)
def watchdog():
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def site(install):
    with sites.open_site(install) as s:
        for name in ("one", "two"):
            path = s.fs.subvolume(name)
            for n in range(300):
                with open(os.path.join(path, "a-file-with-a-longer-name-%05d" % n), "wb") as f:
                    f.write(b"%s %d\n" % (name.encode(), n) * 100)
            s.service(name, path)
        for name in ("one", "two"):
            s.create(name)
        yield s


@pytest.fixture
def bus(site):
    with Client(site.machine.bus.address) as client:
        yield client


def latest(site, service):
    return site.machine.json("list", "--service", service, "--status", "completed")["backups"][0]["backup_id"]


@contextlib.contextmanager
def stopped(site, step, start):
    """The first backup stops at a step, those after it do not; on leaving it goes on. Yields what `start()` gave."""
    workers = site.machine.workers
    workers.restart("backup", HOLDPOINT_STEP=step + "=stop")
    started = start()
    pid = holdpoint.wait_until(lambda: next((p for p in workers.pids() if sites.is_stopped(p)), None), "the step", 30)
    old = workers.processes.pop("backup")  # its worker would go with it
    workers.start("backup")
    try:
        yield started
    finally:
        os.kill(pid, signal.SIGCONT)
        holdpoint.wait_until(lambda: not holdpoint.processes_below(old.pid), "the end of the backup", 60)
        holdpoint.stop_process(old)


def settle(bus, seconds=60):
    holdpoint.wait_until(lambda: not bus.get("RunningJobs"), "the end of all jobs", seconds)


def state(bus, job):
    return bus.get("State", job, "org.holdpoint.Backup1.Job")


def test_in_turn_beside_a_backup(site, bus):
    """A backup stands still: reading goes on, what writes waits in its order, what would hurt is Busy."""
    old = latest(site, "one")
    with stopped(site, "sealed", lambda: bus.create("one")) as (running, job):
        assert state(bus, job) == "running"
        waiting = [bus.create("two")[1], bus.call("Prune", "a{sv}", [{}]), bus.create("one")[1]]
        out = os.path.join(site.fs.path, "beside")
        for service in ("one", "two"):  # of the service that is backed up, and of another one
            shutil.rmtree(out, ignore_errors=True)
            os.mkdir(out)
            done = site.machine.call("restore", latest(site, service), "--into", out, "--from", "local")
            assert done.returncode == 0, done.stderr
        site.machine.cli("verify", old, "--depth", "data")
        assert site.machine.cli("files", old, "--json").stdout.count("\n") > 300
        assert [state(bus, j) for j in waiting] == ["queued"] * 3
        fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [running, {}])
        swap = bus.call("RestoreBackup", "ssa{sv}", [old, "one", {"confirm": variant("b", True)}])
        fails("Busy", bus.call, "RestoreBackup", "ssa{sv}", [old, "one", {"confirm": variant("b", True)}])
        fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [old, {}])
        reload = site.machine.call("list")
        assert reload.returncode == 0
        bus.call("Reload")
    for j in [job] + waiting + [swap[1]]:
        assert bus.wait_job(j, 60)[0] == "done"
    removed = [b[1] for _, member, b, _ in bus.signals if member == "JobRemoved"]
    assert [j for j in removed if j in waiting] == waiting, "first come, first served"
    site.machine.cli("confirm", "latest", "--yes")
    shutil.rmtree(out)


def test_swap_right_after_a_backup(site):
    """Its worker has given up the locks, but not ended: it is not in the way of the restore that waited for them."""
    m, old = site.machine, latest(site, "one")
    with Client(m.bus.address) as watch:
        with stopped(site, "let-go", lambda: watch.create("one")) as (_, job):
            answer = worker.ask(m, "restore", "restore", restore_id=str(uuid.uuid4()), backup_id=old, paths=[],
                                restore_type="one", allow_partial=False, **{"from": "auto"})
            assert answer.result == "done", answer
        assert watch.wait_job(job, 60)[0] == "done"


def test_reading_waits_for_no_disk(site, bus):
    """A storm of questions must not queue up behind the disk that a backup writes to: the agent syncs what changes alone."""
    old, log = latest(site, "one"), os.path.join(site.machine.directory, "syncs")

    def syncs(work):
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range", "-o", log, "-p",
                                   str(site.machine.agent.process.pid)], stderr=subprocess.DEVNULL)
        holdpoint.wait_until(lambda: "TracerPid:\t%d\n" % tracer.pid in open(
            "/proc/%d/status" % site.machine.agent.process.pid).read(), "the tracer", 10)
        work()
        settle(bus)
        tracer.terminate()
        tracer.wait()
        with open(log) as f:
            return f.read().count("sync")

    def ask():
        for _ in range(5):
            site.machine.cli("files", old)
            site.machine.cli("diff", old, "latest")
            site.machine.cli("restore", old, "--dry-run", "--yes")
            for member in ("GetStatus", "ListBackups", "ListJobs", "ListRestores"):
                bus.call(member, "a{sv}", [{}])

    settle(bus)
    assert syncs(ask) == 0
    assert syncs(lambda: site.create("one")) > 0


def test_second_agent_refuses(site, bus):
    second = holdpoint.Agent(site.machine.install, site.machine.agent_environment,
                             os.path.join(site.machine.directory, "second.log"))
    second.start()
    assert second.process.wait(30) != 0
    second.process = None
    assert bus.call("GetStatus", "a{sv}", [{}])


def test_two_agents_on_one_repository(site, bus):
    """Each on a bus and with a catalogue of its own: the flocks of the workers decide, and none waits for ever."""
    m = site.machine
    where = os.path.join(m.directory, "other")
    os.makedirs(os.path.join(where, "state"))
    shutil.chown(os.path.join(where, "state"), holdpoint.AGENT_USER)
    with holdpoint.PrivateBus(where) as other_bus:
        environment = dict(m.agent_environment, STATE_DIRECTORY=os.path.join(where, "state"),
                           DBUS_SYSTEM_BUS_ADDRESS=other_bus.address)
        other = holdpoint.Agent(m.install, environment, os.path.join(where, "agent.log"))
        other.start(other_bus)
        try:
            with Client(other_bus.address) as second:
                for _ in range(3):
                    jobs = [(bus, bus.create("one")), (second, second.create("two")), (second, second.create("one"))]
                    results = [client.wait_job(job, 120)[0] for client, (_, job) in jobs]
                    assert set(results) <= {"done", "failed"} and "done" in results, results
                    for client, (backup, _) in jobs:
                        row = client.call("GetBackup", "s", [backup])
                        if row["status"] == "failed":
                            assert "Busy" in row["metadata"], row
                done = bus.call("Prune", "a{sv}", [{}])
                assert bus.wait_job(done, 60)[0] in ("done", "failed")
                settle(second)
        finally:
            other.stop()
    settle(bus)
    # What the other one made is found at the next start.
    m.agent.stop()
    m.agent.start(m.bus)
    holdpoint.wait_until(lambda: m.json("list", "--status", "completed")["total"] == len(site.records()),
                         "the catalogue", 30)
    for backup in site.records():
        m.cli("verify", backup, "--depth", "data")


def test_prune_and_delete_beside_a_slow_reader(site, bus):
    """A list, a diff and an export that are read slowly: nothing that they need goes away under them."""
    first, blob = latest(site, "one"), os.path.join(site.fs.path, "one", "blob")
    dead, before = [], set(site.packs())
    for _ in range(2):  # the first one's content is nobody's then
        with open(blob, "wb") as f:
            f.write(os.urandom(3 << 20))
        dead.append(site.create("one")["backup_id"])
    site.machine.json("delete", dead[0], "--yes")
    dead = set(site.packs()) - before
    second = site.create("one")["backup_id"]
    streams = [bus.stream("OpenBackup", "sa{sv}", [second, {"format": variant("s", "tar")}]),
               bus.stream("ListFiles", "sssa{sv}", [second, "", "", {}]),
               bus.stream("DiffBackups", "ssa{sv}", [first, second, {}])]
    fails("Busy", bus.call, "DeleteBackup", "sa{sv}", [second, {}])
    data = [os.read(fd, 1000) for fd, _ in streams]
    prune = bus.call("Prune", "a{sv}", [{}])
    result, summary = bus.wait_job(prune, 90)
    # What it may not unlink stays condemned.
    assert (result, summary["packs"]) == ("done", 0) and summary["condemned"] > 0, summary
    assert dead <= set(site.packs())
    for n, (fd, body) in enumerate(streams):
        with os.fdopen(fd, "rb") as f:
            data[n] += f.read()
        assert bus.wait_job(body[0], 60)[0] == "done"
    assert json.loads(data[1].splitlines()[-1])["end"] and json.loads(data[2].splitlines()[-1])["end"]
    listing = subprocess.run(["tar", "-tf", "-"], input=data[0], capture_output=True, check=True).stdout
    assert listing.count(b"\n") >= 301
    settle(bus)
    assert site.machine.json("prune", "--yes")["packs"] == summary["condemned"]
    assert not dead <= set(site.packs())


def test_clients_that_stop(site, bus):
    """A stream that stands still is cut off, whoever reads beside it: the minute is shorter here."""
    m, backup = site.machine, latest(site, "one")
    for name in ("maintain", "backup"):
        m.workers.restart(name, HOLDPOINT_TEST_STALL_MSEC="700")
    try:
        fd, (still,) = bus.stream("OpenBackup", "sa{sv}", [backup, {"format": variant("s", "tar")}])
        assert m.cli("files", backup).stdout.count("a-file-with") == 300
        assert bus.wait_job(still, 30)[0] == "failed"
        assert bus.get("ErrorName", still, "org.holdpoint.Backup1.Job").endswith(".Interrupted")
        with os.fdopen(fd, "rb") as f:  # what it has is no whole archive
            assert not f.read().endswith(bytes(1024))
        r, w = os.pipe()
        _, silent = bus.call("ImportBackup", "hsa{sv}", [0, "silent", {}], fds=[r])
        os.close(r)
        assert bus.wait_job(silent, 30)[0] == "failed"
        assert bus.get("ErrorName", silent, "org.holdpoint.Backup1.Job").endswith(".Interrupted")
        os.close(w)
    finally:
        for name in ("maintain", "backup"):
            m.workers.restart(name)
    settle(bus)


def test_clients_that_vanish(site):
    """In the middle of a stream, of a call that is held, and of a job that goes on without them."""
    m, backup = site.machine, latest(site, "one")
    with Client(m.bus.address) as watch:
        reader = Client(m.bus.address)
        fd, body = reader.stream("OpenBackup", "sa{sv}", [backup, {"format": variant("s", "tar")}])
        os.read(fd, 100)
        os.close(fd)
        reader.close()
        assert watch.wait_job(body[0], 30)[0] == "canceled"
        maker = Client(m.bus.address)
        with stopped(site, "sealed", lambda: maker.create("one")) as (_, job):
            held = Client(m.bus.address)
            held.start("PinBackup", "sb", [backup, True])
            plan = Client(m.bus.address)
            plan.start("PlanRestore", "ssa{sv}", [backup, "one", {}])
            for client in (held, plan, maker):
                client.run_for(0.3)
                client.close()
        assert watch.wait_job(job, 60)[0] == "done", "a backup does not end with who asked for it"
        settle(watch)
        assert watch.call("PinBackup", "sb", [backup, False]) is None


def test_storm_of_cancels(site, bus):
    """Backups, verifications, lists and restores that are canceled at any moment; then all is as before."""
    rng, backup = random.Random(SEED), latest(site, "one")
    before = set(site.records())
    for _ in range(STEPS):
        jobs = []
        for _ in range(rng.randint(1, 3)):
            what = rng.randrange(4)
            try:
                if what == 0:
                    jobs.append(bus.create(rng.choice(("one", "two")))[1])
                elif what == 1:
                    jobs.append(bus.call("VerifyBackup", "sa{sv}", [backup, {"depth": variant("s", "data")}]))
                elif what == 2:
                    fd, body = bus.stream("ListFiles", "sssa{sv}", [backup, "", "", {}])
                    os.close(fd)
                    jobs.append(body[0])
                else:
                    jobs.append(bus.call("Prune", "a{sv}", [{}]))
            except BusError as error:
                assert error.short in ("QueueFull", "Busy"), error
        bus.run_for(rng.choice((0, 0, 0.02, 0.1)))
        for job in rng.sample(jobs, len(jobs)):
            with contextlib.suppress(BusError):  # it has ended, or cannot be canceled any more
                bus.call("Cancel", "a{sv}", [{}], path=job, interface="org.holdpoint.Backup1.Job")
        for job in jobs:
            result, summary = bus.wait_job(job, 60)
            assert result in ("done", "canceled"), summary
            assert result == "done" or summary["error_name"].endswith(".Canceled"), summary
    settle(bus)
    rows = {b["backup_id"] for b in site.machine.json("list", "--status", "completed", "--limit", "500")["backups"]}
    assert rows == set(site.records()) >= before
    assert len(site.images()) <= 6
    site.machine.cli("verify", site.create("one")["backup_id"], "--depth", "data")


@pytest.fixture
def figures(record_property):
    return record_property


def hammer(address, end, answers, wrong):
    with Client(address, signals=False) as client:
        while not end.is_set():
            for call in (("GetStatus", "a{sv}", [{}]), ("ListBackups", "a{sv}", [{}])):
                began = time.monotonic()
                try:
                    client.call(*call)
                except Exception as error:  # shown by the test
                    wrong.append(error)
                    return
                answers.append(time.monotonic() - began)


def test_fifty_clients(site, bus, figures):
    """They ask all the time while a backup, a verification and a restore run: everybody is answered."""
    end, answers, wrong = threading.Event(), [], []
    with open(os.path.join(site.fs.path, "one", "large"), "wb") as f:
        for _ in range(40):
            f.write(os.urandom(1 << 20))
    # Half of the clients are in a process of their own each: threads of one Python take turns.
    script = ("import sys, threading; sys.path[:0] = %r; import test_together as t\n"
              "a, w = [], []; threading.Timer(float(sys.argv[2]), (e := threading.Event()).set).start()\n"
              "s = [threading.Thread(target=t.hammer, args=(sys.argv[1], e, a, w)) for _ in range(10)]\n"
              "[x.start() for x in s]; [x.join() for x in s]; print(len(a), max(a), sorted(a)[len(a) * 99 // 100], w)"
              % [os.path.dirname(os.path.abspath(__file__)), os.path.join(holdpoint.TOP, "tests", "lib")])
    with memory.Peak(site.machine) as peak:
        others = [subprocess.Popen([sys.executable, "-c", script, site.machine.bus.address, "6"],
                                   stdout=subprocess.PIPE, text=True) for _ in range(5)]
        jobs = [bus.create("one")[1], bus.create("two")[1],
                bus.call("VerifyBackup", "sa{sv}", [latest(site, "one"), {"depth": variant("s", "data")}])]
        for job in jobs:
            assert bus.wait_job(job, 120)[0] == "done"
        outputs = [o.communicate(timeout=120)[0].split(None, 3) for o in others]
    assert all(o.returncode == 0 for o in others)
    for count, slowest, usual, problems in outputs:
        assert int(count) > 0 and problems.strip() == "[]", outputs
    assert not wrong
    text = "%d answers to 50 clients, slowest %.0f ms, 99 %% within %.0f ms; %.0f MiB" % (
        sum(int(o[0]) for o in outputs), 1000 * max(float(o[1]) for o in outputs),
        1000 * max(float(o[2]) for o in outputs), peak.mib)
    figures("50 clients", text)
    print(text)
    if memory.is_measurable():
        assert peak.mib <= memory.LIMIT_MIB
    os.unlink(os.path.join(site.fs.path, "one", "large"))
