"""A machine without an agent: workers asked one by one, and what each backup must give back."""

import contextlib
import hashlib
import os
import shutil
import time
import uuid

import read_repo
import worker


class Site:
    """One service, 'app', on the machine's own file system: no snapshots, so that a backup is quick."""

    def __init__(self, machine, extra="", clock=None):
        self.machine, self.clock, self.expected = machine, clock, {}
        self.data = os.path.join(machine.directory, "data")
        os.mkdir(self.data)
        machine.write_config("PackSizeMiB=1\n" + extra)
        machine.write_service("app", self.data, Snapshot="none")

    def start(self):
        for name in ("backup", "maintain"):
            self.machine.workers.start(name)

    def write(self, name, content):
        with open(os.path.join(self.data, name), "wb") as f:
            f.write(content)

    def ask(self, worker_class, verb, **members):
        """As the agent does it: a socket that was bound, but does not listen yet, is tried again."""
        for attempt in range(200):
            try:
                return worker.ask(self.machine, worker_class, verb, **members)
            except ConnectionRefusedError:
                time.sleep(0.02)
            except ConnectionResetError as error:
                raise worker.Lost(verb) from error
        raise AssertionError("nobody listens for " + worker_class)

    def maintain(self, verb, **members):
        return self.ask("maintain", verb, **members)

    def digest(self, top=None):
        found = hashlib.sha256()
        for name in sorted(os.listdir(top or self.data)):
            with open(os.path.join(top or self.data, name), "rb") as f:
                found.update(name.encode() + b"\0" + f.read())
        return found.hexdigest()

    def create(self, pinned=False):
        """A backup of what is there; its id, once the worker says that it is one."""
        backup = str(uuid.uuid4())
        answer = self.ask("backup", "create", backup_id=backup, backup_name=backup, backup_type="app", description="",
                          created_by="uid:0", schedule="", services=["app"], pinned=pinned)
        assert answer.result == "done", answer
        self.expected[backup] = self.digest()
        return backup

    def delete(self, backup):
        answer = self.maintain("delete", backup_id=backup)
        assert answer.result == "done", answer
        del self.expected[backup]

    def prune(self, **members):
        answer = self.maintain("prune", dry_run=False, **members)
        assert answer.result == "done", answer
        return answer

    def files(self, directory):
        top = os.path.join(self.machine.repository, directory)
        return sorted(os.path.join(d, n) for d, _, names in os.walk(top) for n in names)

    def records(self):
        return {os.path.basename(n) for n in self.files("backups")}

    def read(self, backup):
        """What the independent reader makes of a backup."""
        output = os.path.join(self.machine.directory, "read")
        shutil.rmtree(output, ignore_errors=True)
        os.mkdir(output)
        read_repo.restore(self.machine.repository, os.path.join(self.machine.etc, "keys", "private.pem"), backup,
                          output, False)
        return self.digest(os.path.join(output, "app" + self.data))

    def check(self, verify=True):
        """All that must be there is there, byte for byte; nothing is there that must not be."""
        assert self.records() == set(self.expected)
        for backup, digest in self.expected.items():
            if verify:
                answer = self.maintain("verify", backup_id=backup, depth="data")
                assert answer.result == "done", answer
            assert self.read(backup) == digest

    @contextlib.contextmanager
    def wrapped(self, worker_class, *arguments):
        """Workers of this class run under strace with these arguments; yields whether something was injected."""
        machine, program = self.machine, self.machine.workers.install.worker
        wrapper, log = (os.path.join(machine.directory, n) for n in ("wrapped-worker", "wrapped.log"))
        with open(wrapper, "w") as f:
            # The tracer is the grandchild (-D): a worker checks that the socket was passed to its own process.
            f.write('#!/bin/sh\nexport ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0"\n')
            f.write('exec strace -D -f -qq -o %s %s %s "$@"\n' % (log, " ".join(arguments), program))
        os.chmod(wrapper, 0o755)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(log)

        def happened():
            with open(log, errors="replace") as f:
                text = f.read()
            return "(INJECTED)" in text or "+++ killed by SIGKILL" in text

        machine.workers.install.worker = wrapper
        try:
            machine.workers.restart(worker_class)
            yield happened
        finally:
            machine.workers.install.worker = program
            machine.workers.restart(worker_class)
