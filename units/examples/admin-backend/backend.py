#!/usr/bin/python3
"""An admin backend's calls to Holdpoint over D-Bus, as functions to take over.

    backend.py create SERVICE|full NAME      makes a backup and shows how far it is
    backend.py list                          the newest backups
    backend.py download ID FILE              streams a backup into FILE as tar.zst
    backend.py status                        what an overview page shows

Needs python3-dbus-next. Runs as the backend's own system user; polkit decides what that one may do (see
../polkit/50-holdpoint.rules; downloads need org.holdpoint.backup1.read-files as well). Signals reach only root and
members of the group holdpoint, so progress is asked for.
"""

import asyncio
import os
import sys

from dbus_next import BusType, Message, MessageType, Variant
from dbus_next.aio import MessageBus

NAME = "org.holdpoint.Backup1"
ROOT = "/org/holdpoint/Backup1"
ERROR = NAME + ".Error."


class Failed(Exception):
    """An error reply or a job that did not end well: `name` is what a program looks at, the text is for people."""

    def __init__(self, name, text):
        super().__init__(text)
        self.name = name[len(ERROR):] if name.startswith(ERROR) else name


def plain(value):
    """D-Bus variants as ordinary values."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


class Holdpoint:
    """One connection to the system bus, for as many calls as the backend likes."""

    async def __aenter__(self):
        self.bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
        return self

    async def __aexit__(self, *exc):
        self.bus.disconnect()

    async def raw(self, member, signature="", *body):
        reply = await self.bus.call(Message(destination=NAME, path=ROOT, interface=NAME + ".Manager", member=member,
                                            signature=signature, body=list(body)))
        if reply.message_type is MessageType.ERROR:
            raise Failed(reply.error_name, reply.body[0] if reply.body else "")
        return reply

    async def call(self, member, signature="", *body):
        return plain((await self.raw(member, signature, *body)).body)

    async def follow(self, job, show=None):
        """Waits for the end of a job; `show` gets its dictionary about four times a second."""
        number = int(job.rpartition("_")[2])
        while True:
            state, = await self.call("GetJob", "u", number)
            if show:
                show(state)
            if state["state"] == "finished":
                break
            await asyncio.sleep(0.25)
        if state["result"] != "done":  # partial is no success either
            raise Failed(state["error_name"] or state["result"], state["error_message"] or state["result"])
        return state["summary"]

    async def create(self, what, name, show=None, **options):
        """Makes a backup of one service, or of all ("full"); returns its dictionary."""
        backup_id, job = await self.call("CreateBackup", "ssa{sv}", what, name, options)
        await self.follow(job, show)
        backup, = await self.call("GetBackup", "s", backup_id)
        return backup

    async def list(self, page=1, limit=20, **options):
        """(how many there are, one page of them, newest first)"""
        options = {key: Variant("s", value) for key, value in options.items()}
        options.update(page=Variant("u", page), limit=Variant("u", limit))
        return await self.call("ListBackups", "a{sv}", options)

    async def download(self, backup_id, path):
        """Streams a backup into a file, which has its name only when it is whole."""
        reply = await self.raw("OpenBackup", "sa{sv}", backup_id, {"format": Variant("s", "tar.zst")})
        stream, part = reply.unix_fds[reply.body[0]], path + ".part"

        def copy():
            with os.fdopen(stream, "rb") as source, open(part, "wb") as target:
                while data := source.read(1 << 20):
                    target.write(data)
                target.flush()
                os.fsync(target.fileno())

        try:
            await asyncio.to_thread(copy)
            await self.follow(reply.body[1])  # the end of the stream is not yet success: the job's result is
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.unlink(part)
        return os.path.getsize(path)


def show_progress(state):
    left = "" if not state["expected_end_usec"] else ", about to end"
    print("%3d %%  %-8s %d files, %d bytes%s" % (state["progress"] * 100, state["phase"] or state["state"],
                                               state["files_done"], state["bytes_done"], left), flush=True)


async def main(arguments):
    verb, rest = arguments[0] if arguments else "", arguments[1:]
    async with Holdpoint() as holdpoint:
        if verb == "create" and len(rest) == 2:
            backup = await holdpoint.create(rest[0], rest[1], show_progress, description=Variant("s", "from the backend"))
            print("%(backup_id)s %(status)s: %(files)d files, %(bytes)d bytes, %(new_bytes)d new" % backup)
        elif verb == "list" and not rest:
            total, backups = await holdpoint.list(limit=10, status="completed")
            for backup in backups:
                print("%(backup_id)s %(created_at)s %(backup_name)s" % backup)
            print("%d in all" % total)
        elif verb == "download" and len(rest) == 2:
            print("%d bytes" % await holdpoint.download(*rest))
        elif verb == "status" and not rest:
            status, = await holdpoint.call("GetStatus", "a{sv}", {})
            for key in ("state", "backup_count", "stored_bytes", "repository_free_bytes", "success_rate", "overdue"):
                print("%-22s %s" % (key, status[key]))
        else:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(sys.argv[1:])))
    except Failed as error:
        print("%s: %s" % (error.name, error), file=sys.stderr)
        sys.exit(1)
