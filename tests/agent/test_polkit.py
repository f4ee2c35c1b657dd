"""Who may do what: every member and every kind of caller, against the real polkit."""

import json
import os
import pwd
import re
import shutil
import sys
import time
import uuid
import xml.etree.ElementTree as ElementTree

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

from busclient import BusError, Client, FakeWorkers, JOB, MANAGER, PROPERTIES, variant  # noqa: E402
from holdpoint import BUS_NAME, BUS_ROOT, Install, Machine, TOP, wait_until  # noqa: E402
from polkit import ACTIONS, RULES, Person, Polkit, call_as, start_as  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: callers run as other users")

ORDINARY, BACKEND, OPERATOR = "games", "www-data", "lp"  # accounts that every Debian has
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
CHALLENGE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
UNKNOWN = str(uuid.uuid4())
QUESTIONS_MAX = 16  # of one user that may wait for polkit (bus-auth.c)

# member -> (action, signature, arguments): well formed, so that whoever is let in gets as far as the handler.
# A descriptor is of a file that everybody may read.
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
    "ProveRecoveryKey": ("manage-keys", "h", [0]),
    "ForgetPrivateKey": ("manage-keys", "a{sv}", [{"x": ["b", True]}]),
    "Diagnose": ("verify", "a{sv}", [{}]),
    "GetStatus": ("list", "a{sv}", [{}]),
    "Reload": ("manage-configuration", "", []),
    "GetRepository": ("list", "a{sv}", [{}]),
    "ImportBackup": ("manage-configuration", "hsa{sv}", [0, "x", {}]),
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


def attempts(names):
    return [(name, MATRIX[name][1], MATRIX[name][2], {"open": ["/etc/passwd"]} if "h" in MATRIX[name][1] else {})
            for name in names]


def outcomes(user, machine, names=tuple(MATRIX)):
    return dict(zip(names, call_as(user, machine, attempts(names))))


def described(machine):
    with Client(machine.bus.address) as client:
        tree = ElementTree.fromstring(client.introspect())
    manager, = [i for i in tree.iter("interface") if i.get("name") == MANAGER]
    return {m.get("name") for m in manager.iter("method")}


def table():
    """The manual page's: action -> its members, and what remote, inactive and active sessions get."""
    with open(os.path.join(TOP, "docs", "man", "org.holdpoint.Backup1.5.scd")) as f:
        rows = re.findall(r"^\|  \*([a-z-]+)\*\n:  ([A-Za-z ]+)\n:  ([a-z_]+), ([a-z_]+), ([a-z_]+)$", f.read(), re.M)
    return {action: (set(members.split()), sessions) for action, members, *sessions in rows}


def test_every_member_has_a_row(machine):
    assert described(machine) == set(MATRIX)
    assert {action: members for action, (members, _) in table().items()} == {
        action: {name for name, row in MATRIX.items() if row[0] == action} for action in {row[0] for row in MATRIX.values()}}


def test_every_action_is_described():
    """Texts in both languages, the defaults that the manual page promises, and the agent as owner."""
    tree = ElementTree.parse(ACTIONS)
    language = "{http://www.w3.org/XML/1998/namespace}lang"
    defaults = {}
    for action in tree.iter("action"):
        defaults[action.get("id").replace("org.holdpoint.backup1.", "")] = [
            action.find("defaults").find("allow_" + session).text for session in ("any", "inactive", "active")]
        for tag in ("description", "message"):
            texts = {e.get(language): e.text for e in action.iter(tag)}
            assert texts[None] and texts["zh_CN"]
        owner, = [e.text for e in action.iter("annotate") if e.get("key") == "org.freedesktop.policykit.owner"]
        assert owner == "unix-user:holdpoint"
    assert defaults == {action: sessions for action, (_, sessions) in table().items()}


def test_root_needs_no_polkit(machine):
    assert DENIED not in outcomes("root", machine).values()


def test_without_polkit_root_only(machine):
    assert set(outcomes(ORDINARY, machine).values()) == {DENIED}


def test_nobody_is_asked_unless_he_allows_it(machine):
    """What an administrator could do is a challenge."""
    with Polkit(machine):
        for user in (ORDINARY, BACKEND):
            for name, outcome in outcomes(user, machine).items():
                assert outcome == (DENIED if table()[MATRIX[name][0]][1][0] == "no" else CHALLENGE), (user, name)


def expected(session):
    """The members that such a session is let in to once its questions are answered, and the questions in their order."""
    column = ("remote", "inactive", "active").index(session)
    allowed, asked, kept = set(), [], set()
    for name, row in MATRIX.items():
        wanted = table()[row[0]][1][column]
        if wanted == "no":
            continue
        allowed.add(name)
        if wanted == "yes" or row[0] in kept:
            continue
        asked.append(row[0])
        if wanted == "auth_admin_keep":
            kept.add(row[0])
    return allowed, asked


def test_administrator(machine):
    """All members from all kinds of sessions, of an administrator and of somebody who has one come over.

    An answer may take as long as typing does: one that takes longer than polkit itself may is waited for, too.
    """
    admin = pwd.getpwnam(OPERATOR).pw_uid
    sessions = {"remote": None, "inactive": False, "active": True}
    with Polkit(machine, groups={"sudo": [OPERATOR]}) as polkit:
        slow = Person(ORDINARY, polkit, [("GetStatus", "a{sv}", [{}], {})])
        assert slow.question()["action"] == "org.holdpoint.backup1.list"
        began = time.monotonic()

        for session, seat in sessions.items():
            for user in (OPERATOR, ORDINARY):
                allowed, asked = expected(session)
                got, questions = Person(user, polkit, attempts(MATRIX), seat=seat).finish(admin=OPERATOR)
                for name, outcome in zip(MATRIX, got):
                    assert (outcome not in (DENIED, CHALLENGE)) == (name in allowed), (session, user, name, outcome)
                assert [q["action"].replace("org.holdpoint.backup1.", "") for q in questions] == asked, (session, user)
                assert all(q["uids"] == [admin] for q in questions)
        # Who does not answer is not let in, and is asked again.
        got, questions = Person(ORDINARY, polkit, attempts(["CreateBackup", "DeleteBackup", "CreateBackup"])).finish()
        assert len(questions) == 2 and set(got) <= {DENIED, CHALLENGE}

        time.sleep(max(0, 11 - (time.monotonic() - began)))
        slow.answer(OPERATOR)
        assert slow.question() is None and slow.heard == [""]
        slow.close()


def test_questions_are_in_ones_language(machine):
    """In the asked person's language."""
    with Polkit(machine, groups={"sudo": [OPERATOR]}) as polkit:
        person = Person(ORDINARY, polkit, attempts(["CreateBackup"]), locale="zh_CN.UTF-8")
        question = person.question()
        person.close()
    assert question["message"] == "创建备份需要身份验证"


def test_example_rules(machine):
    """The admin backend creates and lists; it does not read, restore, delete or change."""
    with open(RULES) as f:
        rules = f.read()
    assert '"yeepay-admin"' in rules
    with Polkit(machine, rules.replace('"yeepay-admin"', '"%s"' % BACKEND)):
        for name, outcome in outcomes(BACKEND, machine).items():
            if MATRIX[name][0] in ("list", "create", "verify"):
                assert outcome not in (DENIED, CHALLENGE), name
            else:
                assert outcome == DENIED, name
        assert set(outcomes(ORDINARY, machine).values()) <= {DENIED, CHALLENGE}


def test_example_of_a_group(machine):
    """Its members restore one service, with the command line and from anywhere, and do nothing else."""
    os.mkdir(os.path.join(machine.directory, "srv", "main"))
    machine.write_service("main_service", os.path.join(machine.directory, "srv", "main"))
    machine.reload()
    create(machine, "main_service")
    machine.fake.handlers["restore"] = lambda w: (w.send("accepted"), w.result())
    with open(RULES) as f, Polkit(machine, f.read(), groups={"backup-operators": [OPERATOR]}):
        for name, outcome in outcomes(OPERATOR, machine).items():
            assert (outcome in (DENIED, CHALLENGE)) == (MATRIX[name][0] != "list"), (name, outcome)
        backup = machine.json("list", user=OPERATOR)["backups"][0]["backup_id"]
        calls = [("PlanRestore", "ssa{sv}", [backup, service, {}], {}) for service in ("main_service", "alpha", "full")]
        assert call_as(OPERATOR, machine, calls) == ["", DENIED, DENIED]
        machine.cli("restore", "latest", "--service", "main_service", "--yes", user=OPERATOR)
        assert DENIED in set(call_as(ORDINARY, machine, calls[:1]))


def told(machine):
    """What the agent wrote down of calls: member -> [(uid, action, let in)…]."""
    with open(machine.agent_log, errors="replace") as f:
        found = re.findall(r"holdpointd: (\w+) (for|refused to) uid (\d+) \(org\.holdpoint\.backup1\.([a-z-]+)\)", f.read())
    return {name: [(int(uid), action, how == "for") for member, how, uid, action in found if member == name] for name in MATRIX}


def test_all_by_rule(machine):
    """And whoever did it, or was not let, is written down, whatever it was; but for looking at lists."""
    with Polkit(machine, EVERYTHING):
        assert DENIED not in outcomes(BACKEND, machine).values()
        assert set(outcomes(ORDINARY, machine).values()) <= {DENIED, CHALLENGE}
    let, refused = (pwd.getpwnam(name).pw_uid for name in (BACKEND, ORDINARY))
    for name, lines in told(machine).items():
        action = MATRIX[name][0]
        assert lines == ([(let, action, True)] if action != "list" else []) + [(refused, action, False)], name


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


def all_asking(machine):
    """Every member called at once by its own process, in as many as it takes, all of them waiting for polkit.

    One call more than may wait is refused at once, which says that the others have arrived.
    """
    names = list(MATRIX)
    for user, part in ((BACKEND, names[:QUESTIONS_MAX]), (ORDINARY, names[QUESTIONS_MAX:])):
        calls = attempts(part) + attempts(["ListJobs"] * (QUESTIONS_MAX + 1 - len(part)))
        process = start_as(user, machine, calls, together=True)
        assert process.stdout.readline()
        yield process, len(part)


def test_callers_leave_during_the_question(machine):
    """Nothing is begun for those who have gone."""
    with Polkit(machine, 'polkit.addRule(function() { return polkit.Result.YES; });') as polkit:
        with Client(machine.bus.address) as client:
            before = client.call("ListJobs", "a{sv}", [{}])
            polkit.pause()
            for process, _ in all_asking(machine):
                process.kill()
                process.communicate()
            polkit.resume()
            for user in (BACKEND, ORDINARY):
                assert call_as(user, machine, [("ListBackups", "a{sv}", [{}], {})]) == [""]
            assert client.call("ListJobs", "a{sv}", [{}]) == before


def test_polkit_stops_in_the_middle(machine):
    """All are denied, and nobody else waits."""
    with Polkit(machine, 'polkit.addRule(function() { return polkit.Result.YES; });') as polkit:
        with Client(machine.bus.address) as client:
            before = client.call("ListJobs", "a{sv}", [{}])
            polkit.pause()
            asking = list(all_asking(machine))
            assert client.call("ListBackups", "a{sv}", [{}], timeout=5)[0] == 0
            polkit.process.kill()
            polkit.process.wait()
            for process, n in asking:
                out, err = process.communicate(timeout=30)
                assert json.loads(out)[:n] == [DENIED] * n, err
            assert client.call("ListJobs", "a{sv}", [{}]) == before
            polkit.process = None


def test_one_user_does_not_use_up_the_questions(machine):
    """Questions that wait are counted by user; root and others go on."""
    many = QUESTIONS_MAX + 4
    with Polkit(machine, EVERYTHING) as polkit, Client(machine.bus.address) as client:
        polkit.pause()
        asking = start_as(ORDINARY, machine, [("ListBackups", "a{sv}", [{}], {})] * many, together=True)
        assert asking.stdout.readline()  # a refusal: nobody else answers
        assert client.call("ListBackups", "a{sv}", [{}], timeout=5)[0] == 0
        polkit.resume()
        out, err = asking.communicate(timeout=60)
        got = json.loads(out)
        assert got.count(LIMITS) == many - QUESTIONS_MAX and set(got) <= {LIMITS, CHALLENGE, DENIED}, err
