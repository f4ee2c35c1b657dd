"""What the agent writes down, as far as it can be seen without a journal: tests/vm/test_journal.py has the rest."""

import os
import pwd
import re
import subprocess
import sys
import uuid

import pytest

from busrig import rig, install  # noqa: F401
from holdpoint import TOP, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: callers run as other users")

HAMMER = """
import sys
sys.path.insert(0, sys.argv[2])
from busclient import BusError, Client
denied = 0
with Client(sys.argv[1], signals=False) as client:
    for _ in range(12):  # fewer at once than polkit is asked for one user
        for task in [client.start("Prune", "a{sv}", [{}]) for _ in range(10)]:
            try:
                client.finish(task)
            except BusError:
                denied += 1
print(denied)
"""


def log(rig):
    with open(rig.machine.agent_log, errors="replace") as f:
        return f.read()


def hammer(rig, name):
    """Many calls of a user who may do nothing, at once."""
    account = pwd.getpwnam(name)
    copy = os.path.join(rig.machine.directory, "script-" + name)
    os.mkdir(copy)
    for module in ("busclient.py", "holdpoint.py"):
        with open(os.path.join(TOP, "tests/lib", module)) as f, open(os.path.join(copy, module), "w") as g:
            g.write(f.read())
        os.chmod(g.name, 0o644)
    done = subprocess.run([sys.executable, "-B", "-c", HAMMER, rig.machine.bus.address, copy], capture_output=True,
                          text=True, user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", timeout=60)
    assert done.stdout == "120\n", done.stderr
    return account.pw_uid


def test_refusals_do_not_drown_the_rest(rig):
    """Each user has a bounded number of lines; another user's refusal is still told."""
    rig.start()
    for name in ("nobody", "games"):
        uid = hammer(rig, name)
        assert log(rig).count("<5>holdpointd: Prune refused to uid %d (org.holdpoint.backup1.delete)" % uid) == 50
        assert log(rig).count("<4>holdpointd: uid %d is refused again and again" % uid) == 1
    rig.completed()
    assert "<6>holdpointd: CreateBackup for uid 0 (org.holdpoint.backup1.create)" in log(rig)


def test_a_job_begins_and_ends(rig):
    bus = rig.start()
    backup = rig.completed()
    [job] = [j for j in bus.call("ListJobs", "a{sv}", [{}]) if j["backup_id"] == backup]
    request = [r for _, r in rig.workers.requests if r["verb"] == "create"][-1]
    assert str(uuid.UUID(job["task_id"])) == job["task_id"] == request["task"] and request["about"] == ["alpha"]
    lines = re.findall(r"<(\d)>holdpointd: job %d: (.*)" % job["id"], log(rig))
    assert [level for level, _ in lines] == ["6", "5", "5", "5"], lines
    assert lines[0][1] == "Job %d (backup) queued for uid 0" % job["id"]
    assert lines[1][1] == "Job %d (backup) started" % job["id"]
    assert lines[2][1].startswith("Backup %s completed: " % backup)
    assert lines[3][1] == "Job %d (backup) done" % job["id"]


def test_numbers_begin_again_but_ids_do_not(rig):
    """A catalogue that is lost: the same number is another job."""
    bus = rig.start()
    rig.completed()
    before = {j["id"]: j["task_id"] for j in bus.call("ListJobs", "a{sv}", [{}])}
    assert rig.machine.agent.stop() == 0
    for name in os.listdir(rig.machine.state):
        os.unlink(os.path.join(rig.machine.state, name))
    bus = rig.start()
    after = {j["id"]: j["task_id"] for j in bus.call("ListJobs", "a{sv}", [{}])}
    assert set(before) & set(after) and not set(before.values()) & set(after.values())


def test_jobs_of_an_agent_that_was_killed(rig):
    """Their story has an end, told by the next agent."""
    bus = rig.start()
    rig.workers.handlers["create"] = lambda worker: worker.send("accepted") or worker.receive(60)
    _, path = bus.create("alpha")
    number = int(path.rsplit("_", 1)[1])
    wait_until(lambda: bus.call("GetJob", "u", [number])["state"] == "running", "the job")
    rig.restart(kill=True)
    assert "<3>holdpointd: job %d: Job %d (backup) interrupted: the agent ended while it ran" % (number, number) in log(rig)


def test_a_bad_configuration_at_the_start(rig):
    rig.machine.write_service("gamma", "/nowhere", Nonsense="1")
    with pytest.raises(Exception):
        rig.start(workers=False)
    assert re.search(r"<3>holdpointd: Cannot start: \S*gamma.conf:\d+: ", log(rig))
