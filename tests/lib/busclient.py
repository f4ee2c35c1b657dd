"""A blocking D-Bus client for tests, and workers whose every message a test decides."""

import array
import asyncio
import json
import os
import pwd
import socket
import threading
import time

from dbus_next import Message, MessageFlag, MessageType, Variant
from dbus_next.aio import MessageBus

from holdpoint import AGENT_USER, BUS_NAME, BUS_ROOT, FixtureError

MANAGER = BUS_NAME + ".Manager"
JOB = BUS_NAME + ".Job"
PROPERTIES = "org.freedesktop.DBus.Properties"
ERROR = BUS_NAME + ".Error."


class BusError(Exception):
    """An error reply: `name` as it was on the bus, `short` without our prefix."""

    def __init__(self, name, text):
        super().__init__("%s: %s" % (name, text))
        self.name, self.text = name, text
        self.short = name[len(ERROR):] if name.startswith(ERROR) else name


def plain(value):
    """Takes the variants off."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


class Client:
    """One connection. Signals of the agent are kept in `signals` as (path, member, body)."""

    def __init__(self, address, signals=True):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)  # MessageBus takes the current one
        self.signals = []
        self.bus = self.loop.run_until_complete(
            asyncio.wait_for(MessageBus(bus_address=address, negotiate_unix_fd=True).connect(), 10))
        self.bus.add_message_handler(self._keep)
        if signals:
            self.call("AddMatch", "s", ["type='signal',sender='%s'" % BUS_NAME], path="/org/freedesktop/DBus",
                      interface="org.freedesktop.DBus", destination="org.freedesktop.DBus")

    def _keep(self, message):
        if message.message_type is MessageType.SIGNAL and message.path.startswith(BUS_ROOT):
            self.signals.append((message.path, message.member, plain(message.body), time.monotonic()))

    def start(self, member, signature="", body=(), path=BUS_ROOT, interface=MANAGER, destination=BUS_NAME, fds=(),
              interactive=False):
        """Sends a call; finish() waits for its reply. `interactive`: the caller may be asked for a password."""
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        message = Message(destination=destination, path=path, interface=interface, member=member,
                          signature=signature, body=list(body), unix_fds=list(fds), flags=flags)
        return self.loop.create_task(self.bus.call(message))

    def finish(self, task, timeout=30, raw=False):
        reply = self.loop.run_until_complete(asyncio.wait_for(task, timeout))
        if reply.message_type is MessageType.ERROR:
            raise BusError(reply.error_name, reply.body[0] if reply.body else "")
        if raw:
            return reply
        body = plain(reply.body)
        return body[0] if len(body) == 1 else body or None

    def call(self, *arguments, timeout=30, raw=False, **kwargs):
        return self.finish(self.start(*arguments, **kwargs), timeout, raw)

    def get(self, name, path=BUS_ROOT, interface=MANAGER):
        return self.call("Get", "ss", [interface, name], path=path, interface=PROPERTIES)

    def get_all(self, path, interface=JOB):
        return self.call("GetAll", "s", [interface], path=path, interface=PROPERTIES)

    def introspect(self, path=BUS_ROOT):
        return self.call("Introspect", path=path, interface="org.freedesktop.DBus.Introspectable")

    def run_for(self, seconds):
        """Lets signals come in."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def wait_signal(self, member, accept=lambda path, body: True, timeout=15):
        """The first such signal, also one that came before; body as a list."""
        end = time.monotonic() + timeout
        while True:
            for path, name, body, _ in self.signals:
                if name == member and accept(path, body):
                    return body
            if time.monotonic() > end:
                raise FixtureError("no signal %s within %d s; there were %s" % (member, timeout, self.signals))
            self.run_for(0.02)

    def wait_job(self, path, timeout=15):
        """(result, summary) of a job, by JobRemoved."""
        body = self.wait_signal("JobRemoved", lambda _, b: b[1] == path, timeout)
        return body[2], body[3]

    def stream(self, *arguments, **kwargs):
        """A call whose first result is a descriptor: (fd, the rest of the body)."""
        reply = self.call(*arguments, raw=True, **kwargs)
        return reply.unix_fds[reply.body[0]], plain(reply.body[1:])

    def create(self, type_="alpha", name="a name", **options):
        return self.call("CreateBackup", "ssa{sv}", [type_, name, options])

    def close(self):
        self.bus.disconnect()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Worker:
    """One connection of the agent to a worker of the test's making."""

    def __init__(self, connection, repository):
        self.connection, self.repository, self.fds = connection, repository, []
        data, ancillary, _, _ = connection.recvmsg(1 << 17, socket.CMSG_SPACE(4 * 8))
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(payload)
                self.fds += list(numbers)
        self.request = json.loads(data)
        self.verb = self.request["verb"]

    def send(self, type_, **members):
        if type_ == "backup" and self.verb in ("create", "import", "pin", "verify"):
            self.repository[members["backup"]["backup_id"]] = members["backup"]
        self.connection.send(json.dumps(dict(type=type_, **members)).encode())

    def send_raw(self, data):
        self.connection.send(data)

    def result(self, result="done", error=None, **summary):
        members = {"result": result, "summary": summary}
        if error:
            members["error"] = {"name": error, "errno": 5, "text": "the worker says " + error}
        self.send("result", **members)

    def receive(self, timeout=10):
        """The next message, None when the agent has hung up."""
        self.connection.settimeout(timeout)
        try:
            data = self.connection.recv(1 << 17)
        except ConnectionResetError:
            return None
        return json.loads(data) if data else None

    def record(self, status="completed", **changes):
        """A backup's record as a worker would send it for this request."""
        r = self.request
        record = {
            "backup_id": r["backup_id"], "backup_name": r["backup_name"],
            "backup_type": r.get("backup_type", "full"), "description": r["description"],
            "created_by": r["created_by"], "status": status,
            "created_at": "2024-01-15T02:00:00Z", "completed_at": "2024-01-15T02:00:05Z", "bytes": 1000,
            "new_bytes": 10, "files": 3, "file_path": "backups/" + r["backup_id"], "checksum": "ab" * 32,
            "services": r.get("services", ["alpha"]), "copies": ["local"], "pinned": r.get("pinned", False),
            "parent_id": "", "schedule": "", "consistency": "application",
            "service_consistency": {s: "application" for s in r.get("services", ["alpha"])},
            "pause_usec": 1234, "metadata": "{}",
            "databases": [{"path": "/srv/a/tasks.db", "uid": 33, "pause_usec": 1200, "checked": True}],
        }
        record.update(changes)
        return record


class FakeWorkers:
    """Listens on the sockets of all classes; `handlers[verb]` gets a Worker in a thread of its own.

    A handler that returns closes the connection. Without one a verb is answered with done; reconcile
    lists what create handlers have sent and delete forgets it (`repository`).
    """

    def __init__(self, directory, classes=("backup", "restore", "maintain", "configure"), user=AGENT_USER,
                 handlers=None):
        self.directory, self.handlers, self.requests, self._sockets = directory, handlers or {}, [], []
        self.errors, self.repository = [], {}
        account = pwd.getpwnam(user)
        for name in classes:
            path = os.path.join(directory, name + ".socket")
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(path)
            os.chown(path, account.pw_uid, account.pw_gid)
            os.chmod(path, 0o600)
            listener.listen(16)
            self._sockets.append((listener, path))
            threading.Thread(target=self._accept, args=(listener, name), daemon=True).start()

    def _accept(self, listener, name):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, name), daemon=True).start()

    def _serve(self, connection, name):
        with connection:
            try:
                worker = Worker(connection, self.repository)
                self.requests.append((name, worker.request))
                handler = self.handlers.get(worker.verb)
                if handler:
                    handler(worker)
                else:
                    self._default(worker)
                for fd in worker.fds:
                    os.close(fd)
            except (ConnectionError, BrokenPipeError):
                pass
            except Exception as error:  # shown by the test, which sees an interrupted job otherwise
                self.errors.append(error)

    def _default(self, worker):
        if worker.verb == "reconcile":
            for record in list(self.repository.values()):
                worker.send("backup", backup=record)
            worker.send("space", stored_bytes=1000, free_bytes=100000)
        elif worker.verb == "delete":
            self.repository.pop(worker.request["backup_id"], None)
        elif worker.verb == "pin":
            row = self.repository[worker.request["backup_id"]]
            worker.send("backup", backup=dict(row, pinned=worker.request["pinned"]))
        worker.result()

    def close(self):
        for listener, path in self._sockets:
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()
            os.unlink(path)
        self._sockets = []
        assert not self.errors, self.errors

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def variant(signature, value):
    return Variant(signature, value)
