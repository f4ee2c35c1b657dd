"""Every dictionary on the bus and every object of the command line has the keys and types that the pages list, no more and no less."""

import json
import os
import select
import socket
import stat
import subprocess

import pytest
from dbus_next import Variant

import documented
import holdpoint
from busclient import Client, FakeWorkers

JOB_KEYS = ("backup_id", "restore_id")


def signatures(dictionary):
    return {key: value.signature for key, value in dictionary.items()}


def check(dictionary, keys, optional=()):
    """Of a dictionary from the bus."""
    got = signatures(dictionary)
    assert {k: v for k, v in keys.items() if k in got or k not in optional} == got


def check_table(dictionary, title, optional=()):
    keys, below = documented.table(title)
    check(dictionary, keys, optional)
    for key, columns in below.items():
        for row in dictionary[key].value if key in dictionary else ():
            check(row, columns)


def check_json(value, keys):
    """The same of an object that the command line printed."""
    assert set(value) == set(keys)
    for key, kind in keys.items():
        assert isinstance(value[key], documented.JSON[kind]) and (kind == "b") == isinstance(value[key], bool), key


BACKUP = documented.paragraph("Backups and restores", "Backups:")
DATABASE = documented.paragraph("Backups and restores", "A row of `databases`")
RESTORE = documented.paragraph("Backups and restores", "Restores:")
SUMMARIES = documented.summaries()
TABLES = {"plan": "Plans", "job": "Jobs", "status": "Status", "repository": "Repository", "diagnosis": "Diagnoses", "schedule": "Schedules"}


class Site:
    """A machine on which every verb was called once; `said` has what each of them printed."""

    def __init__(self, machine, fs):
        self.machine, self.said = machine, {}
        top = fs.subvolume("app")
        holdpoint.run("sqlite3", os.path.join(top, "tasks.db"), "pragma journal_mode=wal; create table t(n);")
        self.fill(top)
        machine.write_service("app", top)
        machine.start()
        self.bus = Client(machine.bus.address)
        self.call_all(top)

    def fill(self, top):
        """One of everything that lines tell of."""
        for name in ("file", "first"):
            with open(os.path.join(top, name), "w") as f:
                f.write(name)
        os.link(top + "/first", top + "/second")
        os.symlink("file", top + "/link")
        os.mkfifo(top + "/fifo")
        os.mknod(top + "/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.setxattr(top + "/file", "user.x", b"y")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(top + "/socket")

    def say(self, verb, *arguments, **kwargs):
        self.said[verb] = self.machine.json(*verb.split(), *arguments, **kwargs)
        return self.said[verb]

    def lines(self, verb, *arguments):
        self.said[verb] = [json.loads(x) for x in self.machine.cli(verb, *arguments, "--json").stdout.splitlines()]

    def call_all(self, top):
        key, archive = os.path.join(self.machine.directory, "key"), os.path.join(self.machine.directory, "a.tar")
        self.first = first = self.say("create", "app")["backup_id"]
        with open(top + "/file", "a") as f:
            f.write("more")
        os.chmod(top + "/null", 0o640)
        os.unlink(top + "/link")
        os.unlink(top + "/fifo")
        os.mkdir(top + "/fifo")
        second = self.machine.json("create", "app", "--no-include-files")["backup_id"]
        third = self.machine.json("create", "app")["backup_id"]
        for verb in ("list", "status", "repository"):
            self.say(verb)
        self.say("doctor", exit_code=3)
        for depth in ("metadata", "data", "restore"):
            self.said["verify", depth] = self.machine.json("verify", first, "--depth", depth)
        for verb in ("show", "verify", "pin", "unpin", "restore --dry-run"):
            self.say(verb, first)
        self.say("restore", first, "--yes")
        for verb in ("restores", "rollback latest --yes", "confirm latest --yes"):
            self.said[verb.split()[0]] = self.machine.json(*verb.split())
        self.say("export", first, "--format", "tar", "-o", archive)
        imported = self.say("import", archive)["backup_id"]
        self.imported = self.machine.json("show", imported)
        self.say("delete", second, "--yes")
        self.say("prune", "--yes")
        self.lines("files", first)
        self.lines("diff", first, third)
        self.say("key export-recovery", "-o", key)
        self.say("key prove", key)
        self.say("key forget-private", "--yes")
        self.say("jobs JOB".split()[0])
        self.said["jobs JOB"] = self.machine.json("jobs", self.said["jobs"]["jobs"][0]["id"])


@pytest.fixture(scope="module")
def site(install):
    with holdpoint.LoopFs("btrfs", 512) as fs, holdpoint.Machine(install) as machine:
        s = Site(machine, fs)
        try:
            yield s
        finally:
            s.bus.close()


def raw(bus, member, signature="a{sv}", body=({},)):
    return bus.call(member, signature, body, raw=True).body[-1]


# --- the bus ---------------------------------------------------------------------------------------------

def test_backups(site):
    for row in raw(site.bus, "ListBackups") + [raw(site.bus, "GetBackup", "s", [site.first])]:
        check(row, BACKUP)
        for database in row["databases"].value:
            check(database, DATABASE, optional=("problem",))
    assert row["databases"].value


def test_metadata(site):
    """Of one that was made here, and of one that was not."""
    section = documented.section("Backups and restores")
    keys = {w for cells in documented.rows("Backups and restores") for group in documented.quoted(cells[0]) for w in group}
    found = json.loads(site.said["show"]["metadata"])
    assert set(found) == keys - {"imported"} and "`problems_total`" in section
    assert set(json.loads(site.imported["metadata"])) <= keys and json.loads(site.imported["metadata"])["imported"] is True
    assert [set(x) for x in found["left_out"]] == [{"service", "path"}] and found["sockets"] == 1
    assert {key for source in found["sources"].values() for key in source} == {"paths", "excludes"}


def test_restores(site):
    for row in raw(site.bus, "ListRestores"):
        check(row, RESTORE)


def test_replies(site):
    check_table(raw(site.bus, "GetStatus"), "Status")
    check_table(raw(site.bus, "GetRepository"), "Repository")
    check_table(raw(site.bus, "Diagnose"), "Diagnoses")
    plan = raw(site.bus, "PlanRestore", "ssa{sv}", [site.first, "app", {}])
    check_table(plan, "Plans")
    assert plan["possible"].value is True and plan["paths"].value


def test_what_cannot_be_has_the_same_keys(site):
    """A list of dictionaries with nothing in it is one."""
    plan = raw(site.bus, "PlanRestore", "ssa{sv}", [site.first, "app", {"paths": Variant("as", ["nothing"])}])
    assert plan["error"].value == "SourceMissing" and plan["paths"].value == []
    check_table(plan, "Plans")
    record = os.path.join(site.machine.repository, "backups", site.first)
    with open(record, "rb") as f:
        whole = f.read()
    with open(record, "wb") as f:
        f.write(whole[:-1])
    plan = raw(site.bus, "PlanRestore", "ssa{sv}", [site.first, "app", {}])
    with open(record, "wb") as f:
        f.write(whole)
    assert plan["error"].value == "IntegrityFailure" and plan["services"].value == []
    check_table(plan, "Plans")


def test_jobs_and_their_summaries(site):
    seen = set()
    for job in raw(site.bus, "ListJobs"):
        check_table(job, "Jobs")
        summary, kind = job["summary"].value, job["type"].value
        figures = {k: v for k, v in summary.items() if k not in JOB_KEYS}
        assert job["result"].value == "done" or kind == "plan"
        if kind in ("plan", "repository"):
            continue
        if kind == "diagnose":
            check(figures, documented.table("Diagnoses")[0])
            continue
        depth = summary["depth"].value if "depth" in summary else ""
        seen.add((kind, depth))
        check(figures, SUMMARIES[kind, depth], optional=SUMMARIES["configure", ""] if kind == "configure" else ())
        check({k: v for k, v in summary.items() if k in JOB_KEYS}, {k: "s" for k in JOB_KEYS}, optional=JOB_KEYS)
    assert seen | {("verify", "")} == set(SUMMARIES)


def test_failed_jobs(site):
    """What went wrong stands beside the figures, if there are any."""
    _, job = site.bus.call("RestoreBackup", "ssa{sv}", [site.first, "app", {"confirm": Variant("b", True), "from": Variant("s", "local")}])
    assert site.bus.wait_job(job)[0] == "failed"
    summary = raw(site.bus, "GetJob", "u", [int(job.rpartition("_")[2])])["summary"].value
    check(summary, dict(SUMMARIES["restore", ""], **dict.fromkeys(("backup_id", "restore_id", "error_name", "error_message"), "s")),
          optional=SUMMARIES["restore", ""])


def test_lines(site):
    keys = documented.stream_keys()
    listed, compared = ({key for line in site.said[verb][:-1] for key in line} for verb in ("files", "diff"))
    changes = {"change", "what", "type_before", "size_before"}
    assert listed == keys - changes
    assert compared == changes | {"service", "path", "type", "size"}
    for verb in ("files", "diff"):
        assert site.said[verb][-1] == {"end": True, "entries": len(site.said[verb]) - 1}


# --- the command line ------------------------------------------------------------------------------------

# What wants a job that does not end, or systemd: below, with workers of the test's own. Lines are above.
ELSEWHERE = {"schedule", "schedule show", "schedule set", "schedule delete", "schedule run", "monitor", "cancel", "files", "diff"}


def dictionary(name, verb, said):
    if name == "backup":
        return BACKUP
    if name == "summary":
        kind = "backup" if verb == "schedule run" else verb.split()[0]
        own = SUMMARIES[kind, said.get("depth", "")]
        ids = {k: "s" for k in JOB_KEYS if k in said}
        assert ids or kind == "prune"
        return dict(own, **ids)
    return documented.table(TABLES[name])[0] if name else {}


NAMED = {"total": "t", "backups": "aa{sv}", "restores": "aa{sv}", "jobs": "aa{sv}", "result": "s", "backup_id": "s", "restore_id": "s",
         "pinned": "b", "exported": "b", "proven": "b", "forgotten": "b", "job": "u", "state": "s", "schedules": "aa{sv}",
         "schedule_name": "s", "deleted": "b", "time": "s", "signal": "s", "path": "o", "args": "as"}


def check_verb(verb, value):
    named, name = documented.command_line()[verb]
    check_json(value, dict(dictionary(name, verb, value), **{k: NAMED[k] for k in named}))


def test_every_verb(site):
    said = {k: v for k, v in site.said.items() if k not in ELSEWHERE and isinstance(k, str)}
    assert set(documented.command_line()) == set(said) | ELSEWHERE
    for verb, value in said.items():
        check_verb(verb, value)


def test_depths(site):
    for (verb, depth), value in ((k, v) for k, v in site.said.items() if isinstance(k, tuple)):
        check_json(value, dict(SUMMARIES[verb, depth], backup_id="s", result="s"))


def test_not_waited_for(site):
    queued = site.machine.json("verify", site.first, "--no-wait")
    assert set(queued) == {"job"} and isinstance(queued["job"], int)
    archive = os.path.join(site.machine.directory, "a.tar")
    check_json(site.machine.json("import", archive, "--no-wait"), {"backup_id": "s", "job": "u"})
    queued = site.machine.json("create", "app", "--no-wait")
    check_json(queued, dict(BACKUP, job="u"))
    site.bus.wait_job(holdpoint.BUS_ROOT + "/job/_%d" % queued["job"], 60)


def test_state(site):
    """The manual and the architecture name everything that workers keep."""
    manual, architecture = documented.page("docs/man/holdpointd.8.scd").replace("\\", ""), documented.page("docs/ARCHITECTURE.md")
    for name in os.listdir(site.machine.worker_state):
        assert "_%s_" % name in manual
        assert "`%s" % name in architecture


# --- with workers that say what they like ----------------------------------------------------------------

SCHEDULE = dict(schedule_name="nightly", enabled=True, frequency="daily", time="02:00", calendar="*-*-* 02:00:00", backup_type="full",
                description="", retention_days=30, last_run="", next_run="", last_result="")


def tell_schedule(worker):
    worker.send("accepted")
    worker.send("schedule", schedule=SCHEDULE)
    worker.result()


def create(worker):
    worker.send("accepted")
    worker.send("backup", backup=worker.record())
    worker.result(bytes=1, new_bytes=1, read_bytes=1, files=1, pause_usec=1, consistency="application")


def wait_for_cancel(worker):
    worker.send("accepted")
    assert worker.receive(30)["type"] == "cancel"
    worker.result("canceled")


@pytest.fixture
def fake(install):
    """An agent with a schedule, whose workers do nothing."""
    handlers = {"list-schedules": tell_schedule, "set-schedule": tell_schedule, "create": create, "verify": wait_for_cancel}
    with holdpoint.Machine(install) as machine, FakeWorkers(machine.workers_directory, handlers=handlers):
        unit = os.path.join(machine.units, "holdpoint@nightly.timer.d")
        os.mkdir(unit)
        with open(os.path.join(unit, "50-holdpoint.conf"), "w") as f:
            f.write("[X-Holdpoint]\nType=full\nRetentionDays=30\n\n[Timer]\nOnCalendar=\nOnCalendar=*-*-* 02:00:00\n")
        machine.write_service("app", os.path.join(machine.directory, "srv"))
        machine.agent.start(machine.bus)
        yield machine


def test_schedules(fake):
    with Client(fake.bus.address) as bus:
        for schedule in raw(bus, "ListSchedules") + [raw(bus, "GetSchedule", "s", ["nightly"])]:
            check_table(schedule, "Schedules")
    for verb in ("schedule", "schedule show nightly", "schedule set nightly", "schedule run nightly", "schedule delete nightly --yes"):
        check_verb(" ".join(verb.split()[:2]), fake.json(*verb.split()))


def test_canceled_and_watched(fake):
    """What a monitor sees, and what canceling says."""
    environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=fake.bus.address, LC_ALL="C.UTF-8")
    monitor = subprocess.Popen([fake.install.cli, "monitor", "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                               env=environment)
    try:
        backup = fake.json("create", "app")["backup_id"]
        while not select.select([monitor.stdout], [], [], 0.1)[0]:  # until it watches, it sees nothing
            backup = fake.json("create", "app")["backup_id"]
        job = fake.json("verify", backup, "--no-wait")["job"]
        check_verb("cancel", fake.json("cancel", job))
        seen = set()
        while not {"JobNew", "JobRemoved"} <= seen:
            event = json.loads(monitor.stdout.readline())
            check_verb("monitor", event)
            seen.add(event["signal"])
    finally:
        holdpoint.stop_process(monitor)
