"""Who may do what: every member and every kind of caller, against the real polkit."""

import json
import os
import shutil
import sys
import time
import uuid
import xml.etree.ElementTree as ElementTree

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

from busclient import BusError, Client, FakeWorkers, JOB, MANAGER, PROPERTIES, variant  # noqa: E402
from holdpoint import BUS_NAME, BUS_ROOT, Install, Machine, wait_until  # noqa: E402
from polkit import ACTIONS, RULES, Polkit, call_as, start_as  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: callers run as other users")

ORDINARY, BACKEND, OPERATOR = "games", "www-data", "lp"  # accounts that every Debian has
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
CHALLENGE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
UNKNOWN = str(uuid.uuid4())

# member -> (action, signature, arguments): well formed, so that whoever is let in gets as far as the handler.
MATRIX = {
    "CreateBackup": ("create", "ssa{sv}", ["alpha", "x", {}]),
    "ListBackups": ("list", "a{sv}", [{}]),
    "GetBackup": ("list", "s", [UNKNOWN]),
    "DeleteBackup": ("delete", "sa{sv}", [UNKNOWN, {}]),
    "PinBackup": ("delete", "sb", [UNKNOWN, True]),
    "PlanRestore": ("restore", "ssa{sv}", [UNKNOWN, "alpha", {}]),
    "RestoreBackup": ("restore", "ssa{sv}", [UNKNOWN, "alpha", {}]),
    "ListRestores": ("list", "a{sv}", [{}]),
    "RollbackRestore": ("restore", "sa{sv}", [UNKNOWN, {}]),
    "ConfirmRestore": ("restore", "s", [UNKNOWN]),
    "VerifyBackup": ("verify", "sa{sv}", [UNKNOWN, {}]),
    "OpenBackup": ("read-files", "sa{sv}", [UNKNOWN, {}]),
    "ListFiles": ("read-files", "sssa{sv}", [UNKNOWN, "alpha", "", {}]),
    "DiffBackups": ("read-files", "ssa{sv}", [UNKNOWN, UNKNOWN, {}]),
    "Prune": ("delete", "a{sv}", [{"dry_run": ["b", True]}]),
    "SetSchedule": ("manage-schedule", "sa{sv}", ["nightly", {}]),
    "GetSchedule": ("list", "s", ["nightly"]),
    "ListSchedules": ("list", "a{sv}", [{}]),
    "DeleteSchedule": ("manage-schedule", "s", ["nightly"]),
    "RunSchedule": ("create", "s", ["nightly"]),
    "ListJobs": ("list", "a{sv}", [{}]),
    "GetJob": ("list", "u", [4000000]),
    "ExportRecoveryKey": ("manage-keys", "a{sv}", [{"x": ["b", True]}]),
    "ProveRecoveryKey": ("manage-keys", None, None),
    "ForgetPrivateKey": ("manage-keys", "a{sv}", [{"x": ["b", True]}]),
    "Diagnose": ("verify", "a{sv}", [{}]),
    "GetStatus": ("list", "a{sv}", [{}]),
    "Reload": ("manage-configuration", "", []),
    "GetRepository": ("list", "a{sv}", [{}]),
    "ImportBackup": ("manage-configuration", None, None),
}

EVERYTHING = 'polkit.addRule(function(a, s) { if (s.user == "%s") return polkit.Result.YES; });' % BACKEND


@pytest.fixture(scope="module")
def install():
    with Install() as programs:
        yield programs


@pytest.fixture
def machine(install):
    with Machine(install=install) as m:
        for name in ("alpha", "beta"):
            path = os.path.join(m.directory, "srv", name)
            os.makedirs(path)
            m.write_service(name, path)
        with FakeWorkers(m.workers_directory) as m.fake:
            m.agent.start(m.bus)
            yield m


def members(machine):
    """Those that are there and can be called without a descriptor."""
    return [name for name in MATRIX if MATRIX[name][1] is not None and name in described(machine)]


def attempts(names):
    return [(name, MATRIX[name][1], MATRIX[name][2], {}) for name in names]


def outcomes(user, machine, names):
    return dict(zip(names, call_as(user, machine, attempts(names))))


def described(machine):
    with Client(machine.bus.address) as client:
        tree = ElementTree.fromstring(client.introspect())
    manager, = [i for i in tree.iter("interface") if i.get("name") == MANAGER]
    return {m.get("name") for m in manager.iter("method")}


def test_every_member_has_a_row(machine):
    assert described(machine) <= set(MATRIX)


def test_every_action_is_described():
    """Texts in both languages, defaults, and the agent as owner."""
    tree = ElementTree.parse(ACTIONS)
    language = "{http://www.w3.org/XML/1998/namespace}lang"
    found = set()
    for action in tree.iter("action"):
        found.add(action.get("id").replace("org.holdpoint.backup1.", ""))
        for tag in ("description", "message"):
            texts = {e.get(language): e.text for e in action.iter(tag)}
            assert texts[None] and texts["zh_CN"]
        owner, = [e.text for e in action.iter("annotate") if e.get("key") == "org.freedesktop.policykit.owner"]
        assert owner == "unix-user:holdpoint"
    assert found == {row[0] for row in MATRIX.values()}


def test_root_needs_no_polkit(machine):
    names = members(machine)
    assert DENIED not in outcomes("root", machine, names).values()


def test_without_polkit_root_only(machine):
    names = members(machine)
    assert set(outcomes(ORDINARY, machine, names).values()) == {DENIED}


def test_defaults(machine):
    """Without a session nobody is asked for a password: what an administrator could do is a challenge."""
    destructive = {"restore", "delete", "manage-schedule", "manage-keys", "manage-configuration", "read-files"}
    with Polkit(machine):
        for user in (ORDINARY, BACKEND):
            for name, outcome in outcomes(user, machine, members(machine)).items():
                wanted = DENIED if MATRIX[name][0] in destructive else CHALLENGE
                assert outcome == wanted, (user, name)


def test_example_rules(machine):
    """The admin backend creates and lists; it does not read, restore, delete or change."""
    with open(RULES) as f:
        rules = f.read()
    assert '"yeepay-admin"' in rules
    with Polkit(machine, rules.replace('"yeepay-admin"', '"%s"' % BACKEND)):
        for name, outcome in outcomes(BACKEND, machine, members(machine)).items():
            if MATRIX[name][0] in ("list", "create", "verify"):
                assert outcome not in (DENIED, CHALLENGE), name
            else:
                assert outcome == DENIED, name
        assert set(outcomes(ORDINARY, machine, members(machine)).values()) <= {DENIED, CHALLENGE}


def test_all_by_rule(machine):
    with Polkit(machine, EVERYTHING):
        assert DENIED not in outcomes(BACKEND, machine, members(machine)).values()


def test_properties_are_not_for_all(machine):
    """They cannot be checked for each caller, so the bus keeps them."""
    calls = [("GetAll", "s", [MANAGER], {"interface": PROPERTIES}),
             ("Get", "ss", [MANAGER, "Services"], {"interface": PROPERTIES}),
             ("GetManagedObjects", "", [], {"interface": "org.freedesktop.DBus.ObjectManager"})]
    with Polkit(machine, EVERYTHING):
        assert call_as(BACKEND, machine, calls) == [DENIED] * 3
        assert call_as("root", machine, calls) == [""] * 3


def create(machine, service="alpha"):
    with Client(machine.bus.address) as client:
        def handler(worker):
            worker.send("accepted")
            worker.send("backup", backup=worker.record())
            worker.result()
        machine.fake.handlers["create"] = handler
        backup, job = client.create(service)
        assert client.wait_job(job)[0] == "done"
    return backup


DETAILS = """
polkit.addRule(function(action, subject) {
    if (action.lookup("service") == "alpha" || action.lookup("backup") == "%s")
        return polkit.Result.YES;
    return polkit.Result.NO;
});
"""


def test_details_reach_rules(machine):
    mine, other = create(machine), create(machine, "beta")
    with Polkit(machine, DETAILS % mine):
        assert call_as(BACKEND, machine, [
            ("CreateBackup", "ssa{sv}", ["alpha", "x", {}], {}),
            ("CreateBackup", "ssa{sv}", ["beta", "x", {}], {}),
            ("CreateBackup", "ssa{sv}", ["full", "x", {}], {}),
            ("GetBackup", "s", [mine], {}),
            ("GetBackup", "s", [other], {}),
            ("RestoreBackup", "ssa{sv}", [other, "alpha", {}], {}),
            ("RestoreBackup", "ssa{sv}", [other, "beta", {}], {}),
        ]) == ["", DENIED, DENIED, "", DENIED, "NoSuchService", DENIED]


def test_directory_is_the_callers_own(machine):
    """A root worker writes into it: who may restore could else place a service's file in any directory he can open."""
    own = os.path.join(machine.directory, "own")
    os.mkdir(own)
    shutil.chown(own, BACKEND)
    backup = create(machine)
    call = ("RestoreBackup", "ssa{sv}", [backup, "alpha", {"confirm": ["b", True], "directory": ["h", 0]}])
    with Polkit(machine, EVERYTHING):
        assert call_as(BACKEND, machine, [(*call, {"open": [path]}) for path in (own, "/etc", machine.directory)]) == [
            "", "InvalidArgument", "InvalidArgument"]


def test_cancel_needs_what_starting_needs(machine):
    """A job's action is that of its kind; nobody without it can end somebody's backup."""
    def handler(worker):
        worker.send("accepted")
        worker.receive()
        worker.result("canceled", "Canceled")
    machine.fake.handlers["create"] = handler
    cancel = [("Cancel", "a{sv}", [{}])]
    with Polkit(machine, EVERYTHING), Client(machine.bus.address) as client:
        _, job = client.create()
        wait_until(lambda: client.get("State", job, JOB) == "running", "the job")
        calls = [(*cancel[0], {"path": job, "interface": JOB})]
        assert call_as(ORDINARY, machine, calls) == [CHALLENGE]
        assert call_as(BACKEND, machine, calls) == [""]
        assert client.wait_job(job)[0] == "canceled"


def jobs(client, type_="backup"):
    return [j for j in client.call("ListJobs", "a{sv}", [{}]) if j["type"] == type_]


def test_caller_leaves_during_the_question(machine):
    with Polkit(machine, EVERYTHING) as polkit, Client(machine.bus.address) as client:
        polkit.pause()
        gone = start_as(BACKEND, machine, [("CreateBackup", "ssa{sv}", ["alpha", "x", {}], {})])
        time.sleep(1.5)  # it has called by then; if not, the test only proves less
        gone.kill()
        gone.communicate()
        polkit.resume()
        assert call_as(BACKEND, machine, [("ListBackups", "a{sv}", [{}], {})]) == [""]
        assert jobs(client) == []


def test_polkit_stops_in_the_middle(machine):
    """Denied, and nobody else waits."""
    with Polkit(machine, EVERYTHING) as polkit, Client(machine.bus.address) as client:
        polkit.pause()
        asking = start_as(BACKEND, machine, [("CreateBackup", "ssa{sv}", ["alpha", "x", {}], {})])
        time.sleep(1.5)
        assert client.call("ListBackups", "a{sv}", [{}], timeout=2)[0] == 0
        polkit.process.kill()
        polkit.process.wait()
        out, _ = asking.communicate(timeout=30)
        assert DENIED in out
        assert jobs(client) == []
        polkit.process = None


def test_one_user_does_not_use_up_the_questions(machine):
    """Questions that wait are counted by user; root and others go on."""
    many = 20
    with Polkit(machine, EVERYTHING) as polkit, Client(machine.bus.address) as client:
        polkit.pause()
        asking = start_as(ORDINARY, machine, [("ListBackups", "a{sv}", [{}], {})] * many, together=True)
        assert asking.stdout.readline()  # a refusal: nobody else answers
        assert client.call("ListBackups", "a{sv}", [{}], timeout=5)[0] == 0
        polkit.resume()
        out, err = asking.communicate(timeout=60)
        got = json.loads(out)
        assert got.count(LIMITS) == many - 16 and set(got) <= {LIMITS, CHALLENGE, DENIED}, err
