"""Keys from the first backup to a host that cannot read what it backed up.

The promise: the private key leaves the host only when a copy of it was handed out and proven; from then
on all that makes, lists, checks and removes backups goes on, and what reads their content asks for the key.
"""

import contextlib
import json
import os
import re
import subprocess
import uuid

import busclient
import holdpoint
import pytest
import read_repo
import worker


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


class Site:
    """One service on btrfs, so that there are hot copies, too."""

    def __init__(self, fs, machine):
        self.fs, self.machine = fs, machine
        self.data = fs.subvolume("data")
        self.keys = os.path.join(machine.etc, "keys")
        write(os.path.join(self.data, "large"), os.urandom(3 << 20))
        write(os.path.join(self.data, "small"), b"of round 0\n")
        machine.write_service("app", self.data)

    def key_files(self):
        return sorted(os.listdir(self.keys))

    def create(self):
        return self.machine.json("create", "app")["backup_id"]

    def export(self):
        """The recovery key, through a pipe as the agent makes one."""
        reading, writing = os.pipe()
        try:
            answer = worker.ask(self.machine, "configure", "export-key", [writing], stream=True)
            os.close(writing)
            writing = None
            with os.fdopen(reading, "rb", closefd=False) as f:
                return answer, f.read()
        finally:
            os.close(reading)
            if writing is not None:
                os.close(writing)

    def prove(self, key):
        with worker.memfd(key) as fd:
            return worker.ask(self.machine, "configure", "prove-key", [fd], key=True)

    def forget(self):
        return worker.ask(self.machine, "configure", "forget-key")

    def restore(self, backup, source, key=None, name="out"):
        """A restore aside, past the agent. Returns (answer, the directory)."""
        into = os.path.join(self.machine.directory, name + "-" + uuid.uuid4().hex)
        os.mkdir(into)
        with contextlib.ExitStack() as stack:
            fds = [os.open(into, os.O_RDONLY | os.O_DIRECTORY)]
            stack.callback(os.close, fds[0])
            members = {"from": source}
            if key is not None:
                fds.append(stack.enter_context(worker.memfd(key)))
                members["key"] = True
            return worker.ask(self.machine, "restore", "restore", fds, restore_id=str(uuid.uuid4()),
                              backup_id=backup, restore_type="full", into=True, allow_partial=False,
                              **members), into

    def check(self, into):
        for name in ("large", "small"):
            assert read(into, "app" + self.data, name) == read(self.data, name)


@pytest.fixture
def site(install):
    with holdpoint.LoopFs("btrfs", 512) as fs, holdpoint.Machine(install) as machine:
        yield Site(fs, machine)


def said(answer):
    """The last word about keys among the messages of a worker."""
    message = answer.of_type("keys")[-1]
    return {k: message[k] for k in ("private_key", "recovery_exported", "recovery_proven")}


def told(site):
    """The same in the agent's status."""
    status = site.machine.json("status")
    return {k: status.get(k) for k in ("private_key", "recovery_exported", "recovery_proven")}


def facts(private, exported, proven):
    return dict(private_key=private, recovery_exported=exported, recovery_proven=proven)


def other_key():
    return subprocess.run(["openssl", "genpkey", "-algorithm", "X25519"], check=True, capture_output=True).stdout


def logs_hold_no_key(site, *secrets):
    with open(site.machine.worker_log, "rb") as f, open(site.machine.agent_log, "rb") as g:
        text = f.read() + g.read()
    for secret in secrets:
        assert secret not in text


def body(pem):
    return re.sub(rb"-----[A-Z ]+-----|\s", b"", pem)


def test_before_the_first_backup(site):
    site.machine.start()
    answer, pem = site.export()
    assert (answer.error, pem) == ("KeyMissing", b"")
    assert "first backup" in answer.text
    assert site.prove(other_key()).error == "NoSuchBackup"
    answer = site.forget()
    assert answer.result == "done" and answer.summary == {"forgotten": False}
    assert not os.path.exists(site.keys)


def test_a_host_that_forgets(site):
    """Export, prove, forget; then everything that must go on, and everything that must ask."""
    machine = site.machine
    machine.start()
    first = site.create()
    assert told(site) == facts(True, False, False)
    assert "NOT SAFE" in machine.cli("status").stdout

    # Not before it was handed out and proven.
    assert site.forget().error == "NotConfirmed"
    answer, pem = site.export()
    assert answer.result == "done" and said(answer) == facts(True, True, False)
    assert pem == read(site.keys, "private.pem")
    assert subprocess.run(["openssl", "pkey", "-noout"], input=pem).returncode == 0
    assert site.forget().error == "NotConfirmed"

    # What does not belong proves nothing.
    answer = site.prove(other_key())
    assert answer.error == "KeyMissing" and "does not belong" in answer.text
    assert site.prove(b"junk").error == "KeyMissing"
    assert site.prove(b"").error == "InvalidArgument"
    assert site.prove(pem * 1000).error == "InvalidArgument"
    answer = site.forget()
    assert answer.error == "NotConfirmed" and said(answer) == facts(True, True, False)

    answer = site.prove(pem)
    assert answer.result == "done" and said(answer) == facts(True, True, True)
    assert answer.summary["sessions"] == 1
    note = json.loads(read(site.keys, "recovery.json"))
    assert note["exported_at"] <= note["proven_at"]
    answer = site.forget()
    assert answer.summary == {"forgotten": True} and said(answer) == facts(False, True, True)
    assert site.key_files() == ["host.secret", "public.pem", "recovery.json"]

    # Goes on: backups, listing, checks, the index, the catalogue.
    write(os.path.join(site.data, "small"), b"of round 1\n")
    second = site.create()
    assert told(site) == facts(False, True, True)
    assert "NOT SAFE" not in machine.cli("status").stdout
    assert machine.json("list")["total"] == 2
    for backup in (first, second):
        machine.cli("verify", backup, "--depth", "data")
    machine.stop()
    os.unlink(os.path.join(machine.worker_state, "index.db"))
    os.unlink(os.path.join(machine.state, "catalogue.db"))
    machine.start()
    third = site.create()
    machine.cli("verify", third, "--depth", "data")
    assert machine.json("list")["total"] == 3
    assert told(site) == facts(False, True, True)
    machine.cli("delete", third, "--yes")

    # Goes on: reading names and attributes, upkeep.
    machine.cli("verify", first, "--depth", "metadata")
    assert "small" in machine.cli("files", second).stdout
    assert "small" in machine.cli("diff", first, second).stdout
    machine.cli("prune", "--yes")
    assert machine.json("list")["total"] == 2

    # Asks: content as a stream.
    keyfile, tar = (os.path.join(machine.directory, name) for name in ("given.pem", "out.tar"))
    write(keyfile, pem)
    os.chmod(keyfile, 0o600)
    done = machine.call("export", second, "-o", tar)
    assert done.returncode == 1 and "--key" in done.stderr, done.stderr
    machine.cli("export", second, "-o", tar, "--key", keyfile)
    assert os.path.getsize(tar) > 3 << 20

    # Asks: content from the repository. A hot copy needs nothing.
    answer, into = site.restore(second, "hot")
    assert answer.result == "done"
    site.check(into)
    answer, into = site.restore(second, "local")
    assert answer.error == "KeyMissing" and "--key" in answer.text
    answer, into = site.restore(second, "local", other_key())
    assert answer.error == "KeyMissing" and "does not belong" in answer.text
    answer, into = site.restore(second, "local", pem)
    assert answer.result == "done", answer
    site.check(into)
    answer, into = site.restore(second, "local")  # the key was for that one job
    assert answer.error == "KeyMissing"
    assert site.key_files() == ["host.secret", "public.pem", "recovery.json"]

    # The swap is refused before anything of the live tree is touched.
    machine.workers.restart("restore")
    done = machine.call("restore", second, "--from", "local", "--yes")
    assert done.returncode == 1 and "--key" in done.stderr
    assert read(site.data, "small") == b"of round 1\n"

    # The copy can be proven at any time; a second export has nothing to give.
    assert site.prove(pem).summary["sessions"] == 2  # prune took that of the deleted one
    answer, nothing = site.export()
    assert (answer.error, nothing) == ("KeyMissing", b"")
    assert site.forget().summary == {"forgotten": False}

    # The independent reader takes what was handed out.
    key = os.path.join(machine.directory, "recovery.pem")
    write(key, pem)
    output = os.path.join(site.fs.path, "read")
    os.mkdir(output)
    read_repo.restore(machine.repository, key, second, output, False)
    assert read(output, "app" + site.data, "small") == b"of round 1\n"
    logs_hold_no_key(site, body(pem), read(site.keys, "host.secret").strip())


def test_a_bare_machine(site):
    """Repository and recovery key alone: the host secret comes back, the private key stays away."""
    machine = site.machine
    machine.start()
    backup = site.create()
    pem = read(site.keys, "private.pem")
    machine.stop()
    holdpoint.run("rm", "-r", site.keys)
    machine.start()
    answer, _ = site.restore(backup, "local")
    assert answer.error == "KeyMissing" and "--key" in answer.text
    answer, _ = site.restore(backup, "local", other_key())
    assert answer.error == "KeyMissing" and "does not open" in answer.text
    answer, into = site.restore(backup, "local", pem)
    assert answer.result == "done", answer
    site.check(into)
    assert site.key_files() == ["host.secret"]
    site.create()
    assert site.prove(pem).result == "done"


def test_a_key_that_does_not_come(site):
    """Descriptors that are no key, or fewer than announced, or more."""
    machine = site.machine
    machine.start()
    backup = site.create()
    pem = read(site.keys, "private.pem")
    reading, writing = os.pipe()
    os.write(writing, pem[:50])
    os.write(writing, pem[50:])
    os.close(writing)
    assert worker.ask(machine, "configure", "prove-key", [reading], key=True).result == "done"
    assert worker.ask(machine, "configure", "prove-key", [reading], key=True).error == "InvalidArgument"
    os.close(reading)
    with open("/dev/zero", "rb") as zero:
        assert worker.ask(machine, "configure", "prove-key", [zero.fileno()], key=True).error == "InvalidArgument"
    for fds, members in (([], {"key": True}), ([0, 0], {"key": True}), ([0], {}), ([], {})):
        assert worker.ask(machine, "configure", "prove-key", fds, **members).error == "InvalidArgument"
    assert worker.ask(machine, "configure", "export-key").error == "InvalidArgument"
    assert worker.ask(machine, "maintain", "verify", [0], backup_id=backup,
                      depth="data").error == "InvalidArgument"
    for name in ("export-key", "prove-key", "forget-key"):
        assert worker.ask(machine, "maintain", name).error == "InvalidArgument"


def test_readers_that_leave(site):
    """Nobody reads: then nothing was handed out."""
    site.machine.start()
    site.create()
    reading, writing = os.pipe()
    os.close(reading)
    answer = worker.ask(site.machine, "configure", "export-key", [writing], stream=True)
    os.close(writing)
    assert answer.result == "canceled"
    assert told(site) == facts(True, False, False)
    assert not os.path.exists(os.path.join(site.keys, "recovery.json"))


def test_over_the_bus(site):
    """The same three steps as an owner takes them."""
    machine = site.machine
    machine.start()
    site.create()
    with busclient.Client(machine.bus.address) as bus:
        with pytest.raises(busclient.BusError, match="NotConfirmed"):
            bus.call("ForgetPrivateKey", "a{sv}", [{}])
        stream, _ = bus.stream("ExportRecoveryKey", "a{sv}", [{}])
        with os.fdopen(stream, "rb") as f:
            pem = f.read()
        assert pem == read(site.keys, "private.pem")
        with worker.memfd(other_key()) as fd, pytest.raises(busclient.BusError, match="KeyMissing"):
            bus.call("ProveRecoveryKey", "h", [0], fds=[fd])
        with worker.memfd(pem) as fd:
            bus.call("ProveRecoveryKey", "h", [0], fds=[fd])
        assert told(site) == facts(True, True, True)
        bus.call("ForgetPrivateKey", "a{sv}", [{}])
        assert told(site) == facts(False, True, True)
    assert site.key_files() == ["host.secret", "public.pem", "recovery.json"]


# ---- passphrases, credentials, settings by environment ----


def defaults(machine, text, mode=0o600):
    with open(machine.defaults, "w") as f:
        f.write(text)
    os.chmod(machine.defaults, mode)


def test_a_passphrase(site):
    """The private key is wrapped on first use; nothing that holds it in the clear is ever on the disk."""
    machine = site.machine
    defaults(machine, 'BACKUP_ENCRYPTION_KEY="open sesame"\n')
    machine.start()
    backup = site.create()
    assert site.key_files() == ["host.secret", "private.wrapped", "public.pem"]
    answer, into = site.restore(backup, "local")
    assert answer.result == "done", answer
    site.check(into)

    # Wrong, and none at all: backups go on, restores say what is missing.
    defaults(machine, "BACKUP_ENCRYPTION_KEY=wrong\n")
    site.create()
    answer, _ = site.restore(backup, "local")
    assert answer.error == "KeyMissing" and "passphrase" in answer.text and "wrong" not in answer.text
    assert site.export()[0].error == "KeyMissing"
    os.unlink(machine.defaults)
    answer, _ = site.restore(backup, "local")
    assert answer.error == "KeyMissing" and "BACKUP_ENCRYPTION_KEY" in answer.text
    site.create()

    # What is handed out is PEM; what was copied as it lies there opens with its passphrase, here and elsewhere.
    defaults(machine, "BACKUP_ENCRYPTION_KEY=open\\ sesame\n")
    _, pem = site.export()
    assert subprocess.run(["openssl", "pkey", "-noout"], input=pem).returncode == 0
    wrapped = read(site.keys, "private.wrapped")
    assert site.prove(wrapped).result == "done"
    assert site.forget().summary == {"forgotten": True}
    assert site.key_files() == ["host.secret", "public.pem", "recovery.json"]
    for key in (pem, wrapped):
        answer, into = site.restore(backup, "local", key)
        assert answer.result == "done", answer
    kept = os.path.join(machine.directory, "kept")
    write(kept, wrapped)
    for n, password in enumerate((b"open sesame", b"wrong")):
        output = os.path.join(site.fs.path, "read-%d" % n)
        os.mkdir(output)
        if password == b"wrong":
            with pytest.raises(read_repo.Damaged):
                read_repo.restore(machine.repository, kept, backup, output, password=password)
        else:
            read_repo.restore(machine.repository, kept, backup, output, password=password)
            assert read(output, "app" + site.data, "small") == read(site.data, "small")
    logs_hold_no_key(site, body(pem), b"open sesame", b"sesame")


def test_a_passphrase_later(site):
    """Set for a key that is there already: the next backup wraps it."""
    machine = site.machine
    machine.start()
    backup = site.create()
    assert "private.pem" in site.key_files()
    defaults(machine, "BACKUP_ENCRYPTION_KEY=later\n")
    site.create()
    assert site.key_files() == ["host.secret", "private.wrapped", "public.pem"]
    answer, into = site.restore(backup, "local")
    assert answer.result == "done", answer
    site.check(into)


def test_credentials(site):
    """What systemd hands over takes the place of files, and nothing of it is copied out."""
    machine = site.machine
    machine.start()
    backup = site.create()
    directory = os.path.join(machine.directory, "credentials")
    for name, credential in (("private.pem", "holdpoint.private-key"), ("host.secret", "holdpoint.host-secret")):
        write(os.path.join(directory, credential), read(site.keys, name))
        os.chmod(os.path.join(directory, credential), 0o400)
        os.unlink(os.path.join(site.keys, name))
    for name in holdpoint.CLASSES:
        machine.workers.restart(name, CREDENTIALS_DIRECTORY=directory)
    site.create()
    answer, into = site.restore(backup, "local")
    assert answer.result == "done", answer
    site.check(into)
    _, pem = site.export()
    assert site.prove(pem).result == "done"
    answer = site.forget()
    assert answer.error == "InvalidArgument" and "holdpoint.private-key" in answer.text
    assert said(answer) == facts(True, True, True)
    assert site.key_files() == ["public.pem", "recovery.json"]
    # Without the private key among them the host has forgotten it.
    os.unlink(os.path.join(directory, "holdpoint.private-key"))
    answer, _ = site.restore(backup, "local")
    assert answer.error == "KeyMissing"
    write(os.path.join(directory, "holdpoint.passphrase"), b"from systemd\n")
    os.chmod(os.path.join(directory, "holdpoint.passphrase"), 0o400)
    write(os.path.join(site.keys, "private.pem"), pem)
    os.chmod(os.path.join(site.keys, "private.pem"), 0o600)
    site.create()
    assert site.key_files() == ["private.wrapped", "public.pem", "recovery.json"]
    assert read_repo.load_private_key(os.path.join(site.keys, "private.wrapped"), b"from systemd")


def test_defaults_of_a_deployment(site):
    """BACKUP_DIR without a configuration file; a conflict is told once, a bad value refused with its line."""
    machine = site.machine
    os.unlink(os.path.join(machine.etc, "holdpoint.conf"))
    elsewhere = os.path.join(machine.directory, "elsewhere")
    defaults(machine, "# as before\nBACKUP_DIR=%s\nBACKUP_COMPRESSION_LEVEL=9\nBACKUP_ENCRYPTION_KEY=x\n" % elsewhere)
    machine.start()  # the agent cannot read it, and need not
    site.create()
    assert os.path.exists(os.path.join(elsewhere, "config"))
    assert not os.path.exists(machine.repository)
    machine.stop()

    machine.write_config()
    defaults(machine, "BACKUP_DIR=%s\nBACKUP_COLOUR=blue\n" % elsewhere)
    open(machine.worker_log, "w").close()
    open(machine.agent_log, "w").close()
    machine.start()
    site.create()
    with open(machine.worker_log) as f, open(machine.agent_log) as g:
        text = f.read() + g.read()
    assert text.count("BACKUP_DIR is ignored") == 1 and text.count("BACKUP_COLOUR") == 1
    os.chmod(machine.defaults, 0o644)  # now the agent tells it
    machine.stop()
    open(machine.worker_log, "w").close()
    open(machine.agent_log, "w").close()
    machine.start()
    site.create()
    with open(machine.worker_log) as f, open(machine.agent_log) as g:
        assert (f.read() + g.read()).count("BACKUP_DIR is ignored") == 1

    defaults(machine, "BACKUP_DIR=relative\n")
    done = machine.call("create", "app")
    assert done.returncode == 1 and ":1: BACKUP_DIR" in done.stderr
    defaults(machine, "\nBACKUP_ENCRYPTION_KEY=secret\n", 0o644)
    done = subprocess.run([machine.install.agent, "--check-config"], capture_output=True, text=True,
                          env=dict(machine.agent_environment))
    assert done.returncode == 1 and ":2: BACKUP_ENCRYPTION_KEY" in done.stderr and "secret" not in done.stderr
