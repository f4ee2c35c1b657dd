"""The real polkit on a private bus, with our actions and a test's rules; and callers who are not root."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys

from holdpoint import AGENT_USER, TOP, make_directory, stop_process, wait_until

NAME = "org.freedesktop.PolicyKit1"
ACTIONS = os.path.join(TOP, "units", "org.holdpoint.backup1.policy")
RULES = os.path.join(TOP, "units", "examples", "polkit", "50-holdpoint.rules")

# Sees its own actions and rules alone; the machine's stay as they are.
START = """
mount --bind "$1/actions" /usr/share/polkit-1/actions &&
mount --bind "$1/rules" /etc/polkit-1/rules.d &&
exec /usr/lib/polkit-1/polkitd --no-debug
"""


class Polkit:
    """polkitd for the bus of `machine`. `rules` is the text of one file of rules."""

    def __init__(self, machine, rules=""):
        self.machine, self.process = machine, None
        self.directory = make_directory("holdpoint-polkit-")
        for name in ("actions", "rules"):
            os.mkdir(os.path.join(self.directory, name), 0o755)
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
        for name in ("busclient.py", "holdpoint.py"):
            shutil.copy(os.path.join(TOP, "tests", "lib", name), copy)
            os.chmod(os.path.join(copy, name), 0o644)
    return copy
