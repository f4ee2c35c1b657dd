"""Schedules as the agent has them: what it asks of its worker, and what a run is made of.

That they are timers is tested in guests, where systemd is.
"""

import os
import re
import sqlite3

import pytest

from busclient import variant
from test_bus import bus, fails, install, rig  # noqa: F401

DROP_IN = """[X-Holdpoint]
Type=%s
RetentionDays=%d

[Timer]
OnCalendar=
OnCalendar=*-*-* 02:00:00
"""


def write(rig, name, type_="alpha", days=30, text=DROP_IN):  # noqa: F811
    directory = os.path.join(rig.machine.units, "holdpoint@%s.timer.d" % name)
    os.mkdir(directory)
    with open(os.path.join(directory, "50-holdpoint.conf"), "w") as f:
        f.write(text % (type_, days) if "%" in text else text)


def row(name, **changes):
    return dict({"schedule_name": name, "enabled": True, "frequency": "daily", "time": "02:00", "calendar": "*-*-* 02:00:00",
                 "backup_type": "full", "retention_days": 30, "description": "", "last_run": "",
                 "next_run": "2030-01-15T02:00:00Z", "last_result": ""}, **changes)


@pytest.fixture
def configure(rig, bus):  # noqa: F811
    """The workers, and only what a schedule asked of them."""
    rig.workers.requests.clear()
    return rig.workers


def test_set(rig, bus, configure):  # noqa: F811
    """Only what was given goes to the worker; the reply comes with its end."""
    configure.handlers["set-schedule"] = lambda w: (w.send("schedule", schedule=row("nightly")), w.result())
    given = {"enabled": ("b", False), "frequency": ("s", "weekly"), "time": ("s", "03:00"), "retention_days": ("u", 7),
             "backup_type": ("s", "alpha"), "description": ("s", "x")}
    bus.call("SetSchedule", "sa{sv}", ["nightly", {k: variant(*v) for k, v in given.items()}])
    _, request = configure.requests[-1]
    assert {k: request[k] for k in given} == {k: v[1] for k, v in given.items()}
    bus.call("SetSchedule", "sa{sv}", ["nightly", {"calendar": variant("s", "daily")}])
    _, request = configure.requests[-1]
    assert request["calendar"] == "daily" and "frequency" not in request and "enabled" not in request
    with sqlite3.connect(os.path.join(rig.machine.state, "catalogue.db")) as db:
        assert db.execute("select schedule_name, schedule_time, retention_days from backup_schedules").fetchall() == \
            [("nightly", "02:00", 30)]


def test_refused_at_the_call(rig, bus, configure):  # noqa: F811
    for name in ("", "Upper", "a/b", "../x", "-a", "a" * 64, "a b"):
        fails("InvalidArgument", bus.call, "SetSchedule", "sa{sv}", [name, {}])
        fails("InvalidArgument", bus.call, "RunSchedule", "s", [name])
    text = fails("InvalidArgument", bus.call, "SetSchedule", "sa{sv}", ["a", {"hourly": variant("b", True)}])
    assert "hourly" in text
    fails("InvalidArgument", bus.call, "SetSchedule", "sa{sv}", ["a", {"retention_days": variant("s", "7")}])
    for member in ("GetSchedule", "DeleteSchedule", "RunSchedule"):
        fails("NoSuchSchedule", bus.call, member, "s", ["nightly"])
    assert configure.requests == []


def test_list_and_get(rig, bus, configure):  # noqa: F811
    rows = [row("nightly"), row("weekly", enabled=False, last_run="2024-01-15T02:00:00Z", last_result="success")]
    configure.handlers["list-schedules"] = lambda w: ([w.send("schedule", schedule=r) for r in rows], w.result())
    assert bus.call("ListSchedules", "a{sv}", [{}]) == rows
    write(rig, "weekly")
    assert bus.call("GetSchedule", "s", ["weekly"]) == rows[1]
    write(rig, "lost")  # gone between the look of the agent and that of the worker
    fails("NoSuchSchedule", bus.call, "GetSchedule", "s", ["lost"])
    raw = bus.call("ListSchedules", "a{sv}", [{}], raw=True)
    assert raw.body[0][0]["retention_days"].signature == "u"
    rows.clear()
    assert bus.call("ListSchedules", "a{sv}", [{}]) == []
    with sqlite3.connect(os.path.join(rig.machine.state, "catalogue.db")) as db:
        assert db.execute("select count(*) from backup_schedules").fetchone() == (0,)


def test_a_worker_that_tells_nonsense(rig, bus, configure):  # noqa: F811
    configure.handlers["list-schedules"] = lambda w: w.send("schedule", schedule=row("x", retention_days="many"))
    fails("Internal", bus.call, "ListSchedules", "a{sv}", [{}])


def test_run(rig, bus):  # noqa: F811
    """Named and marked by its schedule; then what is past its retention goes."""
    def create(worker):
        worker.send("accepted")
        worker.send("backup", backup=worker.record(schedule=worker.request["schedule"]))
        worker.result()
    rig.workers.handlers["create"] = create
    write(rig, "nightly")
    backup, job = bus.call("RunSchedule", "s", ["nightly"])
    assert bus.wait_job(job)[0] == "done"
    got = bus.call("GetBackup", "s", [backup])
    assert got["created_by"] == "schedule:nightly" and got["schedule"] == "nightly" and got["backup_type"] == "alpha"
    assert re.fullmatch(r"auto_nightly_\d{8}_\d{6}", got["backup_name"])
    bus.wait_signal("JobNew", lambda _, b: b[2] == "prune")

    rig.workers.handlers["create"] = lambda w: w.result("failed", "NoSpace")
    before = [b for _, m, b, _ in bus.signals if m == "JobNew" and b[2] == "prune"]
    assert bus.wait_job(bus.call("RunSchedule", "s", ["nightly"])[1])[0] == "failed"
    bus.run_for(0.3)
    assert [b for _, m, b, _ in bus.signals if m == "JobNew" and b[2] == "prune"] == before


def test_run_of_what_is_broken(rig, bus):  # noqa: F811
    write(rig, "old", type_="removed")
    fails("NoSuchService", bus.call, "RunSchedule", "s", ["old"])
    write(rig, "broken", text="[X-Holdpoint]\nNonsense=1\n")
    assert "50-holdpoint.conf:2:" in fails("ConfigurationInvalid", bus.call, "RunSchedule", "s", ["broken"])
