"""The command line: usage, ids, waiting, exit codes, against an agent that says what the test wants.

What the real agent says is tested in the other files of this folder; a few calls at the end make sure that
the two understand each other.
"""

import contextlib
import fcntl
import json
import os
import pty
import pwd
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest
from dbus_next import Variant

import fakeagent
import holdpoint
from fakeagent import Refusal

ID = "0123abcd-0000-4000-8000-00000000000%d"
VERBS = ("create list show restore restores rollback confirm verify delete pin unpin prune jobs cancel status "
         "monitor files diff export import key repository schedule doctor").split()

# Design: D-Bus error name to exit code of the program.
ERROR_EXITS = {
    "NoSuchBackup": 5, "NoSuchService": 5, "NoSuchJob": 5, "NoSuchRestore": 5, "NoSuchSchedule": 5,
    "InvalidArgument": 2, "ConfigurationInvalid": 1, "NotConfirmed": 2, "Busy": 6, "QueueFull": 6, "HoldTimeout": 1,
    "SnapshotFailed": 1, "SnapshotFull": 1, "NoSpace": 1, "SourceMissing": 1, "IntegrityFailure": 8,
    "KeyMissing": 1, "NotRestorable": 1, "TargetInUse": 1, "Canceled": 7, "Interrupted": 1, "Internal": 1,
    "org.freedesktop.DBus.Error.AccessDenied": 4, "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": 4,
    "org.freedesktop.DBus.Error.NotSupported": 1, "org.freedesktop.DBus.Error.ServiceUnknown": 9,
    "org.freedesktop.DBus.Error.NoReply": 9,
}


def dictionary(**values):
    types = {str: "s", bool: "b", int: "t", float: "d", list: "as"}
    return {k: v if isinstance(v, Variant) else Variant(types[type(v)], v) for k, v in values.items()}


def backup(number=1, **values):
    d = dict(backup_id=ID % number, backup_name="n%d" % number, backup_type="full", description="", status="completed",
             created_at="2024-01-15T02:00:0%dZ" % number, completed_at="2024-01-15T02:01:00Z", bytes=5000000, new_bytes=70,
             files=42, services=["a", "b"], copies=["hot", "local"], pinned=False, pause_usec=12000,
             consistency="application", checksum="ff", created_by="uid:0")
    d.update(values)
    return dictionary(**d)


def job(state="finished", result="done", **values):
    d = dict(id=Variant("u", 7), type="backup", backup_id=ID % 1, state=state, phase="store", progress=0.5,
             result=result if state == "finished" else "", error_name="", error_message="", started_usec=1700000000000000,
             summary=Variant("a{sv}", dictionary(backup_id=ID % 1, state="rolled_back", bytes=123)))
    d.update(values)
    return "a{sv}", [dictionary(**d)]


JOB_PATH = holdpoint.BUS_ROOT + "/job/_7"
STARTED = {
    "CreateBackup": ("so", [ID % 1, JOB_PATH]),
    "RestoreBackup": ("so", [ID % 5, JOB_PATH]),
    "RollbackRestore": ("o", [JOB_PATH]),
    "ConfirmRestore": ("o", [JOB_PATH]),
    "VerifyBackup": ("o", [JOB_PATH]),
    "DeleteBackup": ("o", [JOB_PATH]),
    "Prune": ("o", [JOB_PATH]),
}


class Shell:
    """The program on a private bus, with or without an agent behind it."""

    def __init__(self, program, bus):
        self.program = program
        self.environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "DBUS_SYSTEM_BUS_ADDRESS": bus}

    def start(self, *arguments, **kwargs):
        return subprocess.Popen([self.program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=self.environment, **kwargs)

    def run(self, *arguments, **kwargs):
        process = self.start(*arguments, **kwargs)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def json(self, *arguments, code=0):
        got, out, err = self.run("--json", *arguments)
        assert got == code, (out, err)
        assert out.count("\n") == 1, "one object, one line"
        return json.loads(out)

    def on_terminal(self, *arguments, answer=None, columns=80):
        """Runs it on a terminal; returns exit code and all that was shown."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
        process = subprocess.Popen([self.program, *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
                                   env=dict(self.environment, TERM="xterm"), start_new_session=True)
        os.close(theirs)
        shown, end = b"", time.monotonic() + 20
        try:
            while time.monotonic() < end:
                if not select.select([ours], [], [], 0.1)[0]:
                    continue
                try:
                    data = os.read(ours, 4096)
                except OSError:  # how a terminal says that nobody is left on it
                    break
                shown += data
                if answer is not None and b"[y/N]" in shown:
                    os.write(ours, answer.encode() + b"\n")
                    answer = None
            return process.wait(timeout=5), shown.decode()
        finally:
            process.kill()
            process.wait()
            os.close(ours)


@pytest.fixture(scope="module")
def bus(tmp_path_factory):
    directory = holdpoint.make_directory("holdpoint-cli-")
    with holdpoint.PrivateBus(directory, "root") as b:
        yield b
    for name in os.listdir(directory):
        os.unlink(os.path.join(directory, name))
    os.rmdir(directory)


@pytest.fixture
def shell(install, bus):
    return Shell(install.cli, bus.address)


@pytest.fixture
def agent(bus):
    with fakeagent.FakeAgent(bus.address) as a:
        a.replies = {"GetBackup": ("a{sv}", [backup()]), "GetJob": job(), **STARTED,
                     "ListBackups": ("uaa{sv}", [1, [backup()]])}
        yield a


# What needs no agent.

def test_help_names_every_verb(shell):
    code, out, err = shell.run("--help")
    assert code == 0 and err == ""
    for verb in VERBS:
        assert re.search(r"^  %s\b" % verb, out, re.M), verb
        code, text, err = shell.run(verb, "--help")
        assert code == 0 and text.startswith("holdpoint " + verb) and "--json" in text
        assert shell.run("help", verb)[1] == text


def test_version(shell):
    assert re.fullmatch(r"holdpoint \d+\.\d+\.\d+\n", shell.run("--version")[1])


@pytest.mark.parametrize("arguments", [
    [], ["nonsense"], ["help", "nonsense"], ["create"], ["create", "full", "more"], ["list", "x"], ["create", "full", "--bogus"],
    ["list", "--pinned"], ["create", "full", "--name"], ["create", "full", "--compression-level", "10"],
    ["create", "full", "--compression-level=x"], ["list", "--limit", "0"], ["list", "--limit", "501"],
    ["list", "--page", "0"], ["create", "full", "--include-files=perhaps"], ["create", "-n", "full"],
    ["restore", "--yes"], ["cancel"], ["restore", "latest", "--name", "x"],
    ["export", "latest", "-o", "x", "--path", "a", "--path", "b"], ["key"], ["key", "prove"],
    ["key", "nonsense"], ["schedule", "set"], ["schedule", "nonsense"], ["schedule", "list", "x"],
    ["schedule", "set", "a", "--retention-days", "0"], ["key", "forget-private", "x"], ["diff", "latest"], ["files"],
    ["restore", "latest", "--dry-run", "--into", "x"]])
def test_usage_is_exit_2(shell, arguments):
    code, out, err = shell.run(*arguments)
    assert code == 2 and out == "" and err.startswith("holdpoint: ")
    error = shell.json(*arguments, code=2)["error"]
    assert error["name"] in ("InvalidArgument", "NotSupported") and error["message"] in err


def test_no_agent_and_no_bus_are_exit_9(shell):
    for arguments in (["list"], ["create", "full"], ["restore", "latest", "--yes"], ["status"], ["monitor"]):
        code, out, err = shell.run(*arguments)
        assert code == 9 and "holdpointd" in err, err
    assert shell.json("list", code=9)["error"]["name"] == "ServiceUnknown"
    shell.environment["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nonexistent/bus"
    code, out, err = shell.run("list")
    assert code == 9 and "system bus" in err


def test_full_disk_is_not_success(shell):
    with open("/dev/full", "w") as full:
        done = subprocess.run([shell.program, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, env=shell.environment)
    assert done.returncode == 1 and "could not be written" in done.stderr


# Calls and their options.

def test_create_sends_what_was_typed_and_prints_the_backup(shell, agent):
    agent.replies["GetJob"] = [job("queued"), job("running"), job("running", phase="verify"), job()]
    got = shell.json("--description", "by hand", "create", "--no-include-files", "full", "--name", "n1", "--compression-level=3",
                     "--pinned")
    call, = agent.called("CreateBackup")
    assert call.signature == "ssa{sv}"
    assert call.arguments == ["full", "n1", {"description": "by hand", "include_files": False, "compression_level": 3,
                                             "pinned": True}]
    assert call.types == {"description": "s", "include_files": "b", "compression_level": "u", "pinned": "b"}
    assert got["result"] == "done" and got["backup_id"] == ID % 1 and got["bytes"] == 5000000
    assert got["services"] == ["a", "b"] and got["pinned"] is False and "error" not in got
    assert len(agent.called("GetJob")) == 4


def test_create_for_people(shell, agent):
    agent.replies["GetJob"] = [job("running"), job("running", phase="verify"), job()]
    code, out, err = shell.run("create", "full")
    assert code == 0 and out.startswith(ID % 1 + "  completed\n") and "42 files" in out and "12.0 ms" in out
    assert err == "store\nverify\n"
    name = agent.called("CreateBackup")[0].arguments[1]
    assert re.fullmatch(r"manual_\d{8}_\d{6}", name)


@pytest.mark.parametrize("typed,sent", [("--include-files", True), ("--include-files=no", False), ("--no-include-files", False)])
def test_include_files(shell, agent, typed, sent):
    shell.json("create", "a", typed)
    assert agent.called("CreateBackup")[0].arguments[2] == {"include_files": sent}


def test_no_wait(shell, agent):
    got = shell.json("create", "full", "--no-wait")
    assert got["job"] == 7 and got["backup_id"] == ID % 1 and "result" not in got
    assert not agent.called("GetJob")


def test_list(shell, agent):
    got = shell.json("list", "--type", "full", "--status=completed", "--service", "a", "--page", "2", "--limit", "500")
    assert set(got) == {"total", "backups"} and got["total"] == 1 and got["backups"][0]["backup_id"] == ID % 1
    call, = agent.called("ListBackups")
    assert call.arguments == [{"type": "full", "status": "completed", "service": "a", "page": 2, "limit": 500}]
    assert call.types["page"] == "u" and call.types["limit"] == "u" and call.types["type"] == "s"
    code, out, err = shell.run("list")
    assert code == 0 and out.splitlines()[1].split()[0] == ID % 1


def test_types_of_json(shell, agent):
    agent.replies["GetBackup"] = ("a{sv}", [backup(bytes=2 ** 63 + 5, databases=Variant("aa{sv}", [dictionary(path="/a", owner=1)]),
                                                   service_consistency=Variant("a{ss}", {"a": "crash"}), n=Variant("i", -3))])
    got = shell.json("show", ID % 1)
    assert got["bytes"] == 2 ** 63 + 5 and got["databases"] == [{"path": "/a", "owner": 1}]
    assert got["service_consistency"] == {"a": "crash"} and got["n"] == -3 and got["result"] == "done"


def test_show_for_people(shell, agent):
    agent.replies["GetBackup"] = ("a{sv}", [backup(databases=Variant("aa{sv}", [
        dictionary(path="/srv/t.db", owner=1000, captured="image", pause_usec=1500, check="ok")]))])
    code, out, err = shell.run("show", ID % 1)
    assert code == 0 and "/srv/t.db" in out and "1.5 ms" in out and "application" in out


def test_show_says_why(shell, agent):
    metadata = {"error": {"name": "NoSpace", "text": "disk full"}, "problems_total": 3,
                "problems": [{"path": "/a/x", "error": {"name": "Internal", "text": "cannot be read"}}]}
    agent.replies["GetBackup"] = ("a{sv}", [backup(status="failed", metadata=json.dumps(metadata))])
    code, out, err = shell.run("show", ID % 1)
    assert "NoSpace: disk full" in out and "/a/x: cannot be read" in out and "and 2 more" in out
    assert shell.json("show", ID % 1)["result"] == "failed"


# Ids.

def test_latest_is_the_newest_completed_that_holds_the_service(shell, agent):
    shell.json("verify", "latest", "--service", "a", "--depth", "data")
    assert agent.called("ListBackups")[0].arguments == [{"status": "completed", "limit": 1, "service": "a"}]
    assert agent.called("VerifyBackup")[0].arguments == [ID % 1, {"depth": "data"}]


def test_latest_of_nothing(shell, agent):
    agent.replies["ListBackups"] = ("uaa{sv}", [0, []])
    assert shell.json("show", "latest", code=5)["error"]["name"] == "NoSuchBackup"


def test_prefixes_over_pages(shell, agent):
    rows = [backup(backup_id="%08x-0000-4000-8000-000000000000" % i) for i in range(700)]

    def page(call):
        options = call.arguments[0]
        first = (options["page"] - 1) * options["limit"]
        return "uaa{sv}", [len(rows), rows[first:first + options["limit"]]]

    agent.replies["ListBackups"] = page
    shell.json("show", "000002BB")
    assert agent.called("GetBackup")[0].arguments == ["000002bb-0000-4000-8000-000000000000"]
    assert shell.json("show", "ffff", code=5)["error"]["name"] == "NoSuchBackup"
    message = shell.json("show", "000002b", code=2)["error"]["message"]
    assert "000002b0-" in message and "000002b1-" in message and "12 backups" in message


@pytest.mark.parametrize("text", ["", "xyz", "../x", "0" * 37, "abc*"])
def test_not_an_id(shell, agent, text):
    assert shell.json("show", text, code=2)["error"]["name"] == "InvalidArgument"
    assert not agent.calls


def restores(*states):
    return "aa{sv}", [[dictionary(restore_id=ID % i, backup_id=ID % 9, services=["a"], state=s,
                                  created_at="2024-01-15T02:00:0%dZ" % (9 - i), completed_at="", units_down_usec=0)
                       for i, s in enumerate(states)]]


def test_latest_restore_is_the_newest_not_yet_confirmed(shell, agent):
    agent.replies["ListRestores"] = restores("failed", "confirmed", "rolled_back", "active")
    got = shell.json("rollback", "latest", "--yes")
    assert agent.called("RollbackRestore")[0].arguments == [ID % 2, {}]
    assert got["result"] == "done" and got["state"] == "rolled_back"
    shell.json("confirm", "latest", "--yes")
    assert agent.called("ConfirmRestore")[0].arguments == [ID % 2]
    agent.replies["ListRestores"] = restores("failed", "confirmed")
    assert shell.json("rollback", "latest", "--yes", code=5)["error"]["name"] == "NoSuchRestore"


def test_restores_of_a_service(shell, agent):
    agent.replies["ListRestores"] = restores("active")
    assert len(shell.json("restores", "--service", "a")["restores"]) == 1
    assert shell.json("restores", "--service", "b")["restores"] == []


# Restore.

def test_restore_passes_the_backups_own_type(shell, agent):
    got = shell.json("restore", ID % 1, "--yes", "--from", "local", "--allow-partial")
    assert agent.called("RestoreBackup")[0].arguments == [ID % 1, "full", {"confirm": True, "from": "local", "allow_partial": True}]
    assert got["restore_id"] == ID % 5 and got["result"] == "done"
    shell.json("restore", ID % 1, "--service", "b", "--yes", "--path", "x", "--path", "y")
    assert agent.called("RestoreBackup")[1].arguments == [ID % 1, "b", {"confirm": True, "paths": ["x", "y"]}]
    assert agent.called("RestoreBackup")[1].types["paths"] == "as"


def test_into_makes_the_directory_and_passes_it(shell, agent, tmp_path):
    into = tmp_path / "out"
    shell.json("restore", "latest", "--into", str(into))  # nothing live is touched: no question
    status = into.stat()
    assert status.st_mode & 0o777 == 0o700
    call, = agent.called("RestoreBackup")
    assert call.types["directory"] == "h" and call.descriptors[0].stat.st_ino == status.st_ino
    (tmp_path / "file").write_text("")
    code, out, err = shell.run("restore", "latest", "--into", str(tmp_path / "file"))
    assert code == 1 and "--into" in err and len(agent.called("RestoreBackup")) == 1


def test_key_is_passed_sealed(shell, agent, tmp_path):
    key = tmp_path / "key"
    key.write_text("secret")
    shell.json("verify", ID % 1, "--key", str(key))
    call, = agent.called("VerifyBackup")
    assert call.types["key"] == "h" and call.descriptors[0].content == b"secret"
    sealed = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert call.descriptors[0].seals == sealed
    assert shell.json("verify", ID % 1, "--key", str(tmp_path / "none"), code=1)["error"]["name"] == "KeyMissing"


DESTRUCTIVE = [["restore", ID % 1], ["rollback", ID % 1], ["confirm", ID % 1], ["delete", ID % 1], ["prune"]]


@pytest.mark.parametrize("arguments", DESTRUCTIVE)
def test_without_terminal_and_yes_nothing_is_done(shell, agent, arguments):
    error = shell.json(*arguments, code=2)["error"]
    assert error["name"] == "NotConfirmed" and "--yes" in error["message"]
    assert not [c for c in agent.calls if c.member in STARTED]


@pytest.mark.parametrize("arguments", DESTRUCTIVE)
def test_the_question(shell, agent, arguments):
    for no in ("", "n", "x"):
        code, shown = shell.on_terminal(*arguments, answer=no)
        assert code == 2 and "[y/N]" in shown
    assert not [c for c in agent.calls if c.member in STARTED]
    code, shown = shell.on_terminal(*arguments, answer="y")
    assert code == 0 and len([c for c in agent.calls if c.member in STARTED]) == 1
    code, shown = shell.on_terminal(*arguments, "--yes")
    assert code == 0 and "[y/N]" not in shown


# Errors and results.

@pytest.mark.parametrize("name,code", ERROR_EXITS.items())
def test_errors_of_the_call(shell, agent, name, code):
    agent.replies["CreateBackup"] = Refusal(name, "the reason")
    error = shell.json("create", "full", code=code)["error"]
    assert error["name"] == name.rsplit(".", 1)[-1] and "the reason" in error["message"]


@pytest.mark.parametrize("result,name,code", [
    ("done", "", 0), ("partial", "", 3), ("partial", "SourceMissing", 3), ("canceled", "Canceled", 7), ("failed", "NoSpace", 1),
    ("failed", "IntegrityFailure", 8), ("failed", "TargetInUse", 1), ("interrupted", "Interrupted", 1), ("failed", "", 1),
    ("nonsense", "", 1)])
def test_results_of_the_job(shell, agent, result, name, code):
    agent.replies["GetJob"] = job(result=result, error_name=fakeagent.ERROR + name if name else "", error_message="disk 3")
    for arguments in (["create", "full"], ["delete", ID % 1, "--yes"], ["verify", ID % 1]):
        got = shell.json(*arguments, code=code)
        assert got["result"] == result and got["backup_id"] == ID % 1
        assert ("error" in got) == (code != 0)
    if code in (1, 3, 8):
        code, out, err = shell.run("create", "full")
        assert "disk 3" in err


def test_a_verification_without_end_says_nothing_good(shell, agent):
    summary = dictionary(bytes=0, files=0, databases=0, damaged=0, depth="restore")
    agent.replies["GetJob"] = job(result="failed", error_name=fakeagent.ERROR + "KeyMissing", error_message="no key",
                                  summary=Variant("a{sv}", summary))
    code, out, err = shell.run("verify", ID % 1, "--depth", "restore")
    assert code == 1 and out == "" and "no key" in err
    agent.replies["GetJob"] = job(summary=Variant("a{sv}", dict(summary, files=Variant("t", 12))))
    code, out, err = shell.run("verify", ID % 1, "--depth", "restore")
    assert code == 0 and "good" in out and "12 files" in out


def test_agent_goes_away_while_waiting(shell, agent):
    agent.replies["GetJob"] = job("running")
    process = shell.start("create", "full", "--json")
    holdpoint.wait_until(lambda: agent.called("GetJob"), "the first look")
    agent.vanish()
    out, err = process.communicate(timeout=10)
    assert process.returncode == 9 and "job 7" in err and "went away" in err
    assert json.loads(out)["error"]["name"] == "Disconnected"


def test_interrupt_cancels_once(shell, agent):
    agent.replies["GetJob"] = lambda call: job(result="canceled") if agent.called("Cancel") else job("running")
    agent.replies["Cancel"] = ("", [])
    process = shell.start("create", "full")
    holdpoint.wait_until(lambda: agent.called("GetJob"), "the first look")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 7 and "canceling job 7" in err
    call, = agent.called("Cancel")
    assert call.path == JOB_PATH and call.signature == "a{sv}"


def test_second_interrupt_leaves(shell, agent):
    agent.replies["GetJob"] = lambda call: job("canceling" if agent.called("Cancel") else "running")
    agent.replies["Cancel"] = ("", [])
    process = shell.start("create", "full")
    holdpoint.wait_until(lambda: agent.called("GetJob"), "the first look")
    process.send_signal(signal.SIGINT)
    holdpoint.wait_until(lambda: agent.called("Cancel"), "the first interrupt")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 7 and "left while" in err and len(agent.called("Cancel")) == 1


def test_signals_are_not_needed(shell, agent, bus):
    """The bus gives them to root and a group; others wait as well."""
    account = pwd.getpwnam("nobody")
    agent.replies["GetJob"] = [job("running"), job("running"), job()]
    done = subprocess.run([shell.program, "create", "full", "--json"], capture_output=True, text=True, env=shell.environment,
                          stdin=subprocess.DEVNULL, user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", timeout=20)
    assert done.returncode == 0 and json.loads(done.stdout)["result"] == "done"


def test_signal_ends_the_wait_sooner(shell, agent):
    seen = []
    agent.replies["GetJob"] = lambda call: seen.append(time.monotonic()) or (job("running") if len(seen) == 1 else job())
    process = shell.start("create", "full", "--json")
    holdpoint.wait_until(lambda: agent.called("GetJob"), "the first look")
    agent.signal("JobRemoved", "uosa{sv}", [7, JOB_PATH, "done", {}])
    process.communicate(timeout=10)
    assert process.returncode == 0 and seen[1] - seen[0] < 0.2


# The rest.

def test_jobs_and_cancel(shell, agent):
    agent.replies["ListJobs"] = ("aa{sv}", [job("running")[1]])
    assert shell.json("jobs")["jobs"][0]["id"] == 7
    assert "50%" in shell.run("jobs")[1]
    assert shell.json("jobs", "7")["type"] == "backup"
    shell.json("jobs", "--state", "finished", "--type", "verify", "--backup-id", ID % 1, "--page", "2", "--limit", "7")
    assert agent.called("ListJobs")[-1].arguments == [{"state": "finished", "type": "verify", "backup_id": ID % 1, "page": 2, "limit": 7}]
    assert shell.run("jobs", "7", "--limit", "1")[0] == 2
    agent.replies["Cancel"] = ("", [])
    assert shell.run("cancel", "7")[0] == 1, "it has ended already"
    agent.replies["GetJob"] = job("running")
    assert shell.json("cancel", "7") == {"job": 7, "state": "canceling"}
    agent.replies["GetJob"] = Refusal("NoSuchJob")
    assert shell.run("cancel", "8")[0] == 5
    assert shell.run("cancel", "x")[0] == 2 and shell.run("cancel", "0")[0] == 2


def status(overdue):
    rows = [dictionary(service="a", last_success_usec=1700000000000000, overdue=bool(overdue), max_age_hours=26)]
    return "a{sv}", [dictionary(version="1", state="idle", services=["a"], running_jobs=Variant("ao", []), backup_count=3,
                                stored_bytes=5 << 30, repository_free_bytes=1, last_success_usec=0, overdue=overdue,
                                success_rate=0.5, restore_success_rate=1.0, workers_reachable=True,
                                service_status=Variant("aa{sv}", rows))]


def test_status(shell, agent):
    agent.replies["GetStatus"] = status([])
    assert shell.json("status")["stored_bytes"] == 5 << 30
    code, out, err = shell.run("status")
    assert code == 0 and "2023-11-14T22:13:20Z" in out and "5.0G" in out and "50%" in out
    agent.replies["GetStatus"] = status(["a"])
    assert shell.json("status", code=1)["overdue"] == ["a"]
    code, out, err = shell.run("status")
    assert code == 1 and "overdue" in out


def test_pin_is_not_served_yet(shell, agent):
    error = shell.json("pin", ID % 1, code=1)["error"]
    assert error["name"] == "NotSupported" and "agent does not support this" in error["message"]
    assert agent.called("PinBackup")[0].arguments == [ID % 1, True]
    agent.replies["PinBackup"] = ("", [])
    assert shell.json("unpin", ID % 1) == {"backup_id": ID % 1, "pinned": False}
    assert agent.called("PinBackup")[-1].arguments == [ID % 1, False]


def test_monitor(shell, agent):
    agent.replies["GetStatus"] = status([])
    process = shell.start("monitor", "--json")
    holdpoint.wait_until(lambda: agent.called("GetStatus"), "monitor to listen")
    agent.signal("BackupAdded", "s", [ID % 3])
    agent.signal("JobNew", "uoss", [9, JOB_PATH, "backup", ID % 3])
    first, second = json.loads(process.stdout.readline()), json.loads(process.stdout.readline())
    assert first["signal"] == "BackupAdded" and first["args"] == [ID % 3]
    assert second["signal"] == "JobNew" and second["args"][0] == 9
    agent.vanish()
    out, err = process.communicate(timeout=10)
    assert process.returncode == 9 and "went away" in err


def test_nothing_from_elsewhere_drives_the_terminal(shell, agent):
    evil = "x\x1b]0;owned\x07\x9b31m\r\n"
    agent.replies["ListBackups"] = ("uaa{sv}", [1, [backup(backup_name=evil)]])
    agent.replies["GetBackup"] = ("a{sv}", [backup(description=evil)])
    agent.replies["CreateBackup"] = Refusal("Busy", evil)
    for arguments in (["list"], ["show", ID % 1], ["create", "full"]):
        code, out, err = shell.run(*arguments)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err), arguments


def test_tables_fit_80_columns(shell, agent):
    agent.replies["ListBackups"] = ("uaa{sv}", [2, [backup(backup_name="n" * 255, backup_type="s" * 63), backup(2)]])
    agent.replies["ListJobs"] = ("aa{sv}", [job(error_message="e" * 300)[1]])
    agent.replies["ListRestores"] = restores("active", "rolled_back")
    agent.replies["GetStatus"] = status([])
    for arguments in (["list"], ["jobs"], ["restores"], ["status"]):
        code, shown = shell.on_terminal(*arguments)
        assert code == 0
        for line in shown.splitlines():
            assert len(line) <= 80, line
        if arguments == ["list"]:
            assert "2024-01-15 02:00" in shown and "0123abcd " in shown


def test_progress_bar_on_a_terminal(shell, agent):
    agent.replies["GetJob"] = [job("running", rate=5 << 20, expected_end_usec=int((time.time() + 65) * 1e6))] * 2 + [job()]
    code, shown = shell.on_terminal("create", "full")
    assert code == 0 and "[##########..........]  50%  store  5.0M/s  left 1:0" in shown


# The real agent.

@contextlib.contextmanager
def started(machine, tmp_path):
    (tmp_path / "data").mkdir()
    machine.write_service("files", str(tmp_path / "data"), Databases="none", Snapshot="none")
    yield machine.start()


def test_with_the_real_agent(machine, tmp_path):
    with started(machine, tmp_path) as m:
        assert m.json("list") == {"total": 0, "backups": []}
        # Never backed up is overdue, once the agent has looked for backups.
        holdpoint.wait_until(lambda: m.call("status").returncode == 1, "an overdue service", 30)
        got = m.json("status", exit_code=1)
        assert got["services"] == ["files"] and got["service_status"][0]["service"] == "files"
        assert "jobs" in m.json("jobs") and m.json("restores") == {"restores": []}
        assert m.json("create", "nonsense", exit_code=5)["error"]["name"] == "NoSuchService"
        assert m.json("show", ID % 1, exit_code=5)["error"]["name"] == "NoSuchBackup"
        assert m.json("show", "latest", exit_code=5)["error"]["name"] == "NoSuchBackup"
        assert m.json("delete", ID % 1, "--yes", exit_code=5)["error"]["name"] == "NoSuchBackup"
        assert m.json("rollback", ID % 1, "--yes", exit_code=5)["error"]["name"] == "NoSuchRestore"
        assert m.json("cancel", "4000000", exit_code=5)["error"]["name"] == "NoSuchJob"
        assert m.json("verify", ID % 1, "--depth", "nonsense", exit_code=2)["error"]["name"] == "InvalidArgument"
        assert m.call("list", user="nobody").returncode == 4


def test_backup_with_the_real_agent(machine, tmp_path):
    with started(machine, tmp_path) as m:
        (tmp_path / "data" / "file").write_text("content")
        got = m.json("create", "files", "--name", "first", "--description", "by hand")
        assert got["result"] == "done" and got["status"] == "completed" and got["backup_name"] == "first"
        short = got["backup_id"][:8]
        assert m.json("show", short)["backup_id"] == got["backup_id"] == m.json("show", "latest")["backup_id"]
        assert m.json("list")["total"] == 1
        assert m.json("verify", short, "--depth", "data")["result"] == "done"
        aside = m.json("restore", short, "--into", str(tmp_path / "out"))
        assert aside["result"] == "done" and aside["restore_id"]
        assert (tmp_path / "out" / "files" / str(tmp_path / "data").lstrip("/") / "file").read_text() == "content"
        assert m.json("delete", short, "--yes")["result"] == "done"
        assert m.json("list")["total"] == 0


def test_reading_with_the_real_agent(machine, tmp_path):
    with started(machine, tmp_path) as m:
        (tmp_path / "data" / "file").write_text("content")
        m.json("create", "files", "--name", "first")
        first = m.json("show", "latest")["backup_id"]
        (tmp_path / "data" / "more").write_text("content")
        (tmp_path / "data" / "file").write_text("other")
        m.json("create", "files", "--name", "second")
        shown = m.cli("files", "latest", "more").stdout.splitlines()
        assert len(shown) == 1 and shown[0].startswith("file ") and shown[0].endswith(str(tmp_path / "data" / "more"))
        rows = [json.loads(line) for line in m.cli("files", first, "--json").stdout.splitlines()]
        assert rows[-1] == {"end": True, "entries": 2} and rows[1]["path"].endswith("/file")
        changed = m.cli("diff", first, "latest").stdout.splitlines()
        assert "+ %s" % (tmp_path / "data" / "more") in changed
        assert any(line.startswith("M %s  (" % (tmp_path / "data" / "file")) and "content" in line for line in changed)


def test_keys_with_the_real_agent(machine, tmp_path):
    """The copy is proven before the original may go; then content needs it."""
    with started(machine, tmp_path) as m:
        (tmp_path / "data" / "file").write_text("content")
        m.json("create", "files", "--name", "first")
        recovery = str(tmp_path / "recovery.pem")
        m.json("key", "forget-private", "--yes", exit_code=2)
        m.json("key", "export-recovery", "-o", recovery)
        assert m.json("key", "prove", recovery) == {"proven": True}
        assert m.json("key", "forget-private", "--yes") == {"forgotten": True}
        out = str(tmp_path / "out")
        assert m.json("restore", "latest", "--into", out, exit_code=1)["error"]["name"] == "KeyMissing"
        assert m.json("restore", "latest", "--into", out, "--key", recovery)["result"] == "done"
        assert m.json("create", "files", "--name", "second")["result"] == "done"
