"""An agent that only says what a test tells it to: for the command line's own behaviour.

It owns the real name on a private bus and answers methods from `replies`, a dictionary of method name to
(signature, body), with descriptors to send after it, to an Exception-free callable of the call that returns such a pair, or to a list of
these, used up from the front with the last one kept. `calls` records what came in.
"""

import asyncio
import contextlib
import fcntl
import os
import stat
import threading

from dbus_next import Message, MessageType, Variant
from dbus_next.aio import MessageBus

import holdpoint

MANAGER = holdpoint.BUS_NAME + ".Manager"
JOB = holdpoint.BUS_NAME + ".Job"
ERROR = holdpoint.BUS_NAME + ".Error."


class Descriptor:
    """What was passed: its stat, and for a file what a reader gets of it and how it is sealed."""

    def __init__(self, fd):
        self.stat, self.content, self.seals = os.fstat(fd), None, None
        if stat.S_ISREG(self.stat.st_mode):
            self.content = os.read(fd, 65536)
            with contextlib.suppress(OSError):  # only what lies in memory can be sealed
                self.seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)


class Call:
    """One method call: its member, path, plain arguments, and its option types by name."""

    def __init__(self, message):
        self.member, self.path, self.signature = message.member, message.path, message.signature
        self.arguments = [plain(a) for a in message.body]
        self.types = {k: v.signature for a in message.body if isinstance(a, dict) for k, v in a.items()}
        # Descriptors are the receiver's to close: what a test wants to know of one is kept instead.
        self.descriptors = []
        for fd in message.unix_fds:
            self.descriptors.append(Descriptor(fd))
            os.close(fd)

    def __repr__(self):
        return "%s%r" % (self.member, tuple(self.arguments))


def plain(value):
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


class Refusal:
    """An error reply; a name without a dot is one of ours."""

    def __init__(self, name, text="because"):
        self.name, self.text = name if "." in name else ERROR + name, text


class FakeAgent:
    def __init__(self, address):
        self.address, self.calls, self.replies = address, [], {}
        self.bus = self.loop = self.thread = None

    def __enter__(self):
        ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self.thread.start()
        if not ready.wait(10) or self.bus is None:
            raise holdpoint.FixtureError("the fake agent did not get its name")
        return self

    def __exit__(self, *exc):
        self.vanish()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def _run(self, ready):
        async def start():
            bus = await MessageBus(bus_address=self.address, negotiate_unix_fd=True).connect()
            bus.add_message_handler(self._handle)
            await bus.request_name(holdpoint.BUS_NAME)
            self.bus = bus

        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(start())
        finally:
            ready.set()
        self.loop.run_forever()

    def _handle(self, message):
        if message.message_type != MessageType.METHOD_CALL or message.interface not in (MANAGER, JOB):
            return None
        call = Call(message)
        self.calls.append(call)
        answer = self.replies.get(call.member, Refusal("org.freedesktop.DBus.Error.NotSupported"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(call)
        if isinstance(answer, Refusal):
            return Message.new_error(message, answer.name, answer.text)
        return Message.new_method_return(message, answer[0], answer[1], list(answer[2:]))

    def signal(self, member, signature, body, interface=MANAGER, path=holdpoint.BUS_ROOT):
        self.loop.call_soon_threadsafe(self.bus.send, Message.new_signal(path, interface, member, signature, body))

    def vanish(self):
        """Leaves the bus as a crash would."""
        if self.bus:
            bus, self.bus = self.bus, None
            self.loop.call_soon_threadsafe(bus.disconnect)

    def called(self, member):
        return [c for c in self.calls if c.member == member]
