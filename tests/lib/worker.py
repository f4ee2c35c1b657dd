"""A worker asked past the agent: one request, all its messages, its result."""

import array
import contextlib
import json
import os
import socket


class Answer:
    """What a worker said: `result`, `error` (short name or None), `text`, `summary`, all `messages`."""

    def __init__(self, messages):
        last = messages[-1]
        self.messages = messages
        self.result, self.summary = last["result"], last.get("summary", {})
        error = last.get("error", {})
        self.error, self.text = error.get("name"), error.get("text", "")

    def of_type(self, name):
        return [m for m in self.messages if m["type"] == name]

    def __repr__(self):
        return "%s %s %s" % (self.result, self.error, self.text)


class Lost(Exception):
    """The worker ended without a result."""


def ask(machine, worker_class, verb, fds=(), timeout=60, **members):
    """Sends one request with its descriptors to a worker of the class and returns its Answer."""
    request = dict(type="request", job=1, verb=verb, **members)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as s:
        s.settimeout(timeout)
        s.connect(os.path.join(machine.workers_directory, worker_class + ".socket"))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        s.sendmsg([json.dumps(request).encode()], rights)
        messages = []
        while True:
            data = s.recv(1 << 18)
            if not data:
                raise Lost("%s %s ended without a result" % (worker_class, verb))
            messages.append(json.loads(data))
            if messages[-1]["type"] == "result":
                return Answer(messages)


@contextlib.contextmanager
def memfd(content):
    """A file in memory, at its beginning."""
    fd = os.memfd_create("key")
    try:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
