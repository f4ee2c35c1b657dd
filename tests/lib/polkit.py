"""The real polkit on a private bus, with our actions and a test's rules; and callers who are not root."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys

from busclient import Client, variant
from holdpoint import AGENT_USER, TOP, FixtureError, make_directory, run, stop_process, wait_until

NAME = "org.freedesktop.PolicyKit1"
ACTIONS = os.path.join(TOP, "units", "org.holdpoint.backup1.policy")
RULES = os.path.join(TOP, "units", "examples", "polkit", "50-holdpoint.rules")

# Sees its own actions, rules, groups and sessions alone; the machine's stay as they are.
START = """
mount --bind "$1/actions" /usr/share/polkit-1/actions &&
mount --bind "$1/rules" /etc/polkit-1/rules.d &&
mount --bind "$1/group" /etc/group &&
mkdir -p /run/systemd &&
mount --bind "$1/logind" /run/systemd &&
mount -t cgroup2 none /sys/fs/cgroup &&
exec /usr/lib/polkit-1/polkitd --no-debug
"""

SESSION = """UID=%d
ACTIVE=%d
STATE=%s
REMOTE=0
TYPE=tty
CLASS=user
SEAT=seat0
"""


def group_file(members):
    """/etc/group with other members of some groups; those that are not there are added."""
    lines, missing = [], dict(members)
    with open("/etc/group") as f:
        for line in f.read().splitlines():
            name, password, gid, users = line.split(":")
            lines.append(":".join([name, password, gid, ",".join(missing.pop(name, [users]))]))
    lines += ["%s:x:%d:%s" % (name, 64000 + i, ",".join(users)) for i, (name, users) in enumerate(missing.items())]
    return "\n".join(lines) + "\n"


class Polkit:
    """polkitd for the bus of `machine`. `rules` is the text of one file of rules, `groups` who is in some groups."""

    def __init__(self, machine, rules="", groups=None):
        self.machine, self.process = machine, None
        self.directory = make_directory("holdpoint-polkit-")
        for name in ("actions", "rules", "logind", "logind/seats", "logind/sessions", "logind/users", "logind/machines"):
            os.mkdir(os.path.join(self.directory, name), 0o755)
        with open(os.path.join(self.directory, "group"), "w") as f:
            f.write(group_file(groups or {}))
        with open(ACTIONS) as f:
            text = f.read()
        # The tests' agent runs as another account than an installed one.
        assert "unix-user:holdpoint<" in text
        with open(os.path.join(self.directory, "actions", os.path.basename(ACTIONS)), "w") as f:
            f.write(text.replace("unix-user:holdpoint<", "unix-user:%s<" % AGENT_USER))
        with open(os.path.join(self.directory, "rules", "50-test.rules"), "w") as f:
            f.write(rules)

    def start(self):
        environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=self.machine.bus.address)
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", START, "sh", self.directory],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        wait_until(lambda: self.machine.bus.has_owner(NAME), "polkit's name on the private bus")
        return self

    def seat(self, pid, uid, active):
        """For polkit the process has a session at a seat, which is in front or not."""
        state = "active" if active else "online"
        files = {"logind/sessions/%d" % pid: SESSION % (uid, active, state),
                 "logind/users/%d" % uid: "STATE=%s\n" % state,
                 "cgroup.%d" % pid: "0::/user.slice/user-%d.slice/session-%d.scope\n" % (uid, pid)}
        for name, text in files.items():
            with open(os.path.join(self.directory, name), "w") as f:
                f.write(text)
        run("nsenter", "--mount", "--target", str(self.process.pid), "mount", "--bind",
            os.path.join(self.directory, "cgroup.%d" % pid), "/proc/%d/cgroup" % pid)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process:
            stop_process(self.process)
            wait_until(lambda: not self.machine.bus.has_owner(NAME), "polkit gone")
        self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


CALLER = """
import asyncio, json, os, sys
sys.path.insert(0, sys.argv[1])
from busclient import BusError, Client, variant
def option(value):
    return {k: variant(*v) for k, v in value.items()} if isinstance(value, dict) else value
def outcome(client, task):
    try:
        client.finish(task)
        return ""
    except BusError as error:
        return error.short
done, waiting = [], []
with Client(sys.argv[2], signals=False) as client:
    for member, signature, body, kwargs in json.loads(sys.argv[3]):
        if "open" in kwargs:
            kwargs["fds"] = [os.open(path, os.O_RDONLY) for path in kwargs.pop("open")]
        task = client.start(member, signature, [option(v) for v in body], **kwargs)
        if sys.argv[4] == "together":
            waiting.append(task)
        else:
            done.append(outcome(client, task))
    if waiting:
        client.loop.run_until_complete(asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))
        print("one has an answer", flush=True)
        done = [outcome(client, task) for task in waiting]
print(json.dumps(done))
"""


class Person:
    """Somebody who makes the calls [(member, signature, body, kwargs)…] one after another, and has an authentication
    agent: polkit may ask for a password. `seat` (None: there is none) is whether a seat's session is in front.

    That an administrator has given the right password is said by root, as polkit-agent-helper-1 does after PAM.
    """

    def __init__(self, user, polkit, calls, seat=None, locale="C.UTF-8"):
        self.account, self.polkit = pwd.getpwnam(user), polkit
        lib = readable_lib(polkit.machine)
        self.process = subprocess.Popen(
            ["/usr/bin/python3", os.path.join(lib, "polkitagent.py"), polkit.machine.bus.address, locale, json.dumps(calls)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
            user=self.account.pw_uid, group=self.account.pw_gid, extra_groups=[])
        if seat is not None:
            polkit.seat(self.process.pid, self.account.pw_uid, seat)
        self._say("begin")

    def _say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def _hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise FixtureError("the person has left")
        return json.loads(line)

    def question(self):
        """What polkit asks next: its action, message, and who may answer; or None, all calls are done."""
        heard = self._hear()
        self.heard = heard
        return None if isinstance(heard, list) else heard

    def answer(self, admin):
        """The password of `admin`; None: the person gives up."""
        if admin:
            identity = ["unix-user", {"uid": variant("u", pwd.getpwnam(admin).pw_uid)}]
            with Client(self.polkit.machine.bus.address, signals=False) as root:
                root.call("AuthenticationAgentResponse2", "us(sa{sv})", [self.account.pw_uid, self.heard["cookie"], identity],
                          path="/org/freedesktop/PolicyKit1/Authority", interface=NAME + ".Authority", destination=NAME)
        self._say("yes" if admin else "no")

    def finish(self, admin=None):
        """Answers all questions so. The outcomes of the calls, as of call_as(), and the questions."""
        questions = []
        try:
            while question := self.question():
                questions.append(question)
                self.answer(admin)
        finally:
            self.close()
        return self.heard, questions

    def close(self):
        self.process.kill()
        self.process.communicate()


def start_as(user, machine, calls, together=False):
    """A process of `user` that makes the calls [(member, signature, body, kwargs)…] one after another, or all at
    once: then it says in a line of its own that the first has been answered.

    The kwarg `open` is a list of paths, whose descriptors go along.
    """
    account = pwd.getpwnam(user)
    return subprocess.Popen(
        ["/usr/bin/python3", "-c", CALLER, readable_lib(machine), machine.bus.address, json.dumps(calls),
         "together" if together else "in turn"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        user=account.pw_uid, group=account.pw_gid, extra_groups=[])


def call_as(user, machine, calls, timeout=60):
    """What came of each call: "" or the short name of its error."""
    process = start_as(user, machine, calls)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    if process.returncode != 0:
        sys.stderr.write(err)
    assert process.returncode == 0
    return json.loads(out)


def readable_lib(machine):
    """The tests may lie where other users cannot look."""
    copy = os.path.join(machine.directory, "lib")
    if not os.path.isdir(copy):
        os.mkdir(copy, 0o755)
        for name in ("busclient.py", "holdpoint.py", "polkitagent.py"):
            shutil.copy(os.path.join(TOP, "tests", "lib", name), copy)
            os.chmod(os.path.join(copy, name), 0o644)
    return copy
