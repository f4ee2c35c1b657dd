"""One request to a worker without an agent: what the agent sends is all that a worker knows of its caller."""

import array
import json
import os
import select
import signal
import socket
import uuid

import holdpoint
import sites


class Answer:
    """What a worker said: its result and error, the summary, and every message before it."""

    def __init__(self, messages):
        self.messages, last = messages, messages[-1] if messages else {}
        self.lost = last.get("type") != "result"
        self.result = None if self.lost else last["result"]
        self.error = last.get("error") or {}
        self.name, self.text = self.error.get("name", ""), self.error.get("text", "")
        self.summary = last.get("summary", {})

    def of(self, kind):
        return [m for m in self.messages if m["type"] == kind]

    def __repr__(self):
        return "%s %s: %s %r" % (self.result, self.name, self.text, self.summary)


class Job:
    """A request under way."""

    def __init__(self, machine, verb, worker="restore", fds=(), **parameters):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.path.join(machine.workers_directory, worker + ".socket")
        # The file is there a moment before somebody listens on it.
        holdpoint.wait_until(lambda: self.socket.connect_ex(path) == 0, "a worker at " + path)
        self.machine = machine
        message = json.dumps(dict(parameters, type="request", verb=verb, job=1)).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([message], rights)
        self.messages = []

    def receive(self, seconds=120):
        """The next message, or None once the worker has hung up."""
        if not select.select([self.socket], [], [], seconds)[0]:
            raise holdpoint.FixtureError("the worker said nothing for %d s" % seconds)
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:  # it closed without reading a cancel; what it had said is still there
            data = self.socket.recv(1 << 18)
        if not data:
            return None
        self.messages.append(json.loads(data))
        return self.messages[-1]

    def answer(self):
        while True:
            message = self.receive()
            if message is None or message["type"] == "result":
                break
        self.socket.close()
        return Answer(self.messages)

    def cancel(self):
        self.socket.send(json.dumps({"type": "cancel"}).encode())

    def stopped(self):
        """The pid of the worker that waits at a step."""
        return holdpoint.wait_until(
            lambda: next((p for p in self.machine.workers.pids() if sites.is_stopped(p)), None), "the step", 30)

    def go_on(self, pid):
        os.kill(pid, signal.SIGCONT)


def ask(machine, verb, worker="restore", fds=(), **parameters):
    return Job(machine, verb, worker, fds, **parameters).answer()


def restore(machine, backup, fds=(), into=None, **parameters):
    """A restore with a fresh id; `into` is a path."""
    request = dict({"restore_id": str(uuid.uuid4()), "backup_id": backup, "restore_type": "full", "from": "auto"},
                   **parameters)
    if into is None:
        return ask(machine, "restore", fds=fds, **request)
    fd = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return ask(machine, "restore", fds=[fd, *fds], into=True, **request)
    finally:
        os.close(fd)


def plan(machine, backup, **parameters):
    request = dict({"backup_id": backup, "restore_type": "full", "from": "auto"}, **parameters)
    return ask(machine, "plan", **request)


def wait_idle(machine):
    """A worker whose socket was closed takes a moment to end."""
    holdpoint.wait_until(lambda: not machine.workers.pids(), "the end of the workers", 20)
