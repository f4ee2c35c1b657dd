"""The command line's streams: lists, archives and keys that come or go through descriptors."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import threading
import time

import pytest
from dbus_next import Variant

from fakeagent import Refusal
from test_cli import ID, JOB_PATH, Shell, agent, bus, dictionary, job, shell  # noqa: F401

LINES = [
    {"service": "a", "path": "/srv/a", "type": "directory", "mode": "0755", "uid": 0, "gid": 0, "mtime": "2024-01-15T02:00:00Z"},
    {"service": "a", "path": "/srv/a/x\\x0ay", "type": "file", "mode": "0644", "uid": 33, "gid": 33, "size": 1234567},
    {"service": "a", "path": "/srv/a/l", "type": "symlink", "mode": "0777", "uid": 33, "gid": 33, "target": "x"},
]
CHANGES = [
    {"service": "a", "path": "/srv/a/new", "change": "added"},
    {"service": "a", "path": "/srv/a/old", "change": "removed"},
    {"service": "a", "path": "/srv/a/x", "change": "modified", "what": ["content", "mtime"]},
]


def stream(data, then=lambda: None, hold=None):
    """A reply with a pipe that gives `data` and ends, once `hold` is set if there is one."""
    def reply(call):
        ours, theirs = os.pipe()

        def write():
            with os.fdopen(theirs, "wb") as f:
                try:
                    f.write(data)
                    f.flush()
                    if hold:
                        hold.wait(20)
                except BrokenPipeError:
                    then()
        threading.Thread(target=write, daemon=True).start()
        threading.Timer(5, os.close, [ours]).start()  # the message has its own copy by then
        return "ho", [0, JOB_PATH], ours
    return reply


def lines(rows, end=True):
    text = "".join(json.dumps(r) + "\n" for r in rows)
    return (text + (json.dumps({"end": True, "entries": len(rows)}) + "\n" if end else "")).encode()


def test_files(shell, agent):  # noqa: F811
    agent.replies["ListFiles"] = stream(lines(LINES))
    code, out, err = shell.run("files", ID % 1, "uploads/", "--service", "a")
    assert code == 0, err
    shown = out.splitlines()
    assert len(shown) == 3 and shown[0].endswith("/srv/a") and "1.2M" in shown[1] and "x\\x0ay" in shown[1]
    assert shown[2].endswith("/srv/a/l -> x")
    assert agent.called("ListFiles")[0].arguments == [ID % 1, "a", "uploads/", {}]
    code, out, err = shell.run("files", ID % 1, "--json")
    assert code == 0 and [json.loads(line) for line in out.splitlines()] == LINES + [{"end": True, "entries": 3}]
    assert agent.called("ListFiles")[1].arguments == [ID % 1, "", "", {}]
    assert shell.run("files", ID % 1, "--path", "uploads")[0] == 0
    assert agent.called("ListFiles")[2].arguments == [ID % 1, "", "uploads", {}]
    assert shell.run("files", ID % 1, "uploads", "--path", "x")[0] == 2


def test_diff(shell, agent):  # noqa: F811
    agent.replies["DiffBackups"] = stream(lines(CHANGES))
    code, out, err = shell.run("diff", ID % 1, ID % 2, "--service", "a")
    assert code == 0 and out.splitlines() == ["+ /srv/a/new", "- /srv/a/old", "M /srv/a/x  (content mtime)"]
    assert agent.called("DiffBackups")[0].arguments == [ID % 1, ID % 2, {"service": "a"}]


@pytest.mark.parametrize("data", [lines(LINES, end=False), lines(LINES)[:-5], b"", b"no json\n", b"x" * (5 << 20)])
def test_a_list_without_its_end_is_no_list(shell, agent, data):  # noqa: F811
    agent.replies["ListFiles"] = stream(data)
    code, out, err = shell.run("files", ID % 1)
    assert code == 1 and err.startswith("holdpoint: ")


def test_a_failed_list(shell, agent):  # noqa: F811
    agent.replies["ListFiles"] = stream(lines(LINES, end=False))
    agent.replies["GetJob"] = job(result="failed", error_name="org.holdpoint.Backup1.Error.IntegrityFailure",
                                  error_message="block 3 is damaged")
    code, out, err = shell.run("files", ID % 1, "--json")
    assert code == 8 and len(out.splitlines()) == 4 and "block 3" in json.loads(out.splitlines()[3])["error"]["message"]


def test_a_reader_that_leaves(shell, agent):  # noqa: F811
    """The stream is left too, which is how the job learns of it."""
    left = threading.Event()
    agent.replies["ListFiles"] = stream(lines(LINES * 50000), then=left.set)
    process = shell.start("files", ID % 1)
    process.stdout.readline()
    process.stdout.close()
    assert left.wait(20)
    process.wait(20)
    process.stderr.close()
    assert process.returncode not in (0, None)


def test_export(shell, agent, tmp_path):  # noqa: F811
    data = os.urandom(1 << 20)
    agent.replies["OpenBackup"] = stream(data)
    agent.replies["GetJob"] = [job("running"), job(summary=Variant("a{sv}", dictionary(bytes=len(data), files=7)))]
    target = tmp_path / "backup.tar.zst"
    target.write_bytes(b"an older one")
    got = shell.json("export", ID % 1, "-o", str(target), "--service", "a", "--path", "uploads")
    assert got["result"] == "done" and got["files"] == 7
    assert target.read_bytes() == data and os.listdir(tmp_path) == ["backup.tar.zst"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert agent.called("OpenBackup")[0].arguments == [ID % 1, {"format": "tar.zst", "service": "a", "path": "uploads"}]


@pytest.mark.parametrize("arguments,sent", [(["-o", "x.tar"], "tar"), (["-o", "x.tgz"], "tar.zst"), ([], "tar.zst"),
                                            (["--format", "tar"], "tar"), (["-o", "x.tar", "--format", "tar.zst"], "tar.zst")])
def test_format_of_an_export(shell, agent, tmp_path, arguments, sent):  # noqa: F811
    agent.replies["OpenBackup"] = stream(b"data")
    code, out, err = shell.run("export", ID % 1, *arguments, cwd=tmp_path)
    assert code == 0, err
    assert agent.called("OpenBackup")[0].arguments[1] == {"format": sent}
    if "-o" not in arguments:
        assert out == "data"


def test_a_failed_export_leaves_what_was_there(shell, agent, tmp_path):  # noqa: F811
    agent.replies["OpenBackup"] = stream(b"half of")
    agent.replies["GetJob"] = job(result="failed", error_name="org.holdpoint.Backup1.Error.KeyMissing", error_message="no key")
    target = tmp_path / "backup.tar"
    target.write_bytes(b"an older one")
    assert shell.json("export", ID % 1, "-o", str(target), code=1)["error"]["name"] == "KeyMissing"
    assert target.read_bytes() == b"an older one" and os.listdir(tmp_path) == ["backup.tar"]


def test_an_export_that_cannot_be_written(shell, agent, tmp_path):  # noqa: F811
    agent.replies["OpenBackup"] = stream(b"x" * (4 << 20))
    agent.replies["GetJob"] = job(result="canceled")
    code, out, err = shell.run("export", ID % 1, "-o", str(tmp_path / "missing" / "x.tar"))
    assert code == 1 and "missing" in err and not agent.called("OpenBackup")
    with open("/dev/full", "w") as full:
        done = subprocess.run([shell.program, "export", ID % 1], stdout=full, stderr=subprocess.PIPE, text=True,
                              env=shell.environment, timeout=30)
    assert done.returncode == 1 and "No space left" in done.stderr


def test_an_export_does_not_replace_what_is_no_file(shell, agent, tmp_path):  # noqa: F811
    """A device stays one and gets the bytes; a link is not followed, and not replaced."""
    device, pipe, link, behind = (tmp_path / name for name in ("null", "pipe", "link", "behind"))
    agent.replies["OpenBackup"] = stream(b"archive")
    agent.replies["GetJob"] = job(summary=Variant("a{sv}", dictionary(bytes=7, files=1)))
    os.mkfifo(pipe)
    link.symlink_to(behind)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert shell.run("export", ID % 1, "-o", str(pipe))[0] == 0
    assert os.read(reader, 100) == b"archive" and pipe.is_fifo()
    os.close(reader)
    if os.geteuid() == 0:
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert shell.run("export", ID % 1, "-o", str(device))[0] == 0
        assert device.is_char_device()
    code, _, err = shell.run("export", ID % 1, "-o", str(link))
    assert code == 1 and "no file" in err and link.is_symlink() and not behind.exists()


def test_an_archive_is_nothing_for_a_terminal(shell, agent):  # noqa: F811
    code, shown = shell.on_terminal("export", ID % 1)
    assert code == 2 and "-o" in shown and not agent.called("OpenBackup")
    assert shell.json("export", ID % 1, code=2)["error"]["name"] == "InvalidArgument"


def test_interrupting_an_export(shell, agent, tmp_path):  # noqa: F811
    go = threading.Event()
    agent.replies["OpenBackup"] = stream(b"some", hold=go)
    agent.replies["GetJob"] = [job("running")]

    def cancel(call):
        agent.replies["GetJob"] = job(result="canceled")
        go.set()
        return "", []
    agent.replies["Cancel"] = cancel
    process = shell.start("export", ID % 1, "-o", str(tmp_path / "x.tar"))
    while not agent.called("GetJob"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 7 and os.listdir(tmp_path) == []


def test_import(shell, agent, tmp_path):  # noqa: F811
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"archive")
    agent.replies["ImportBackup"] = ("so", [ID % 1, JOB_PATH])
    agent.replies["GetJob"] = job(summary=Variant("a{sv}", dictionary(bytes=5, files=2, dropped_modes=2, dropped_xattrs=1, backup_id=ID % 1)))
    got = shell.json("import", str(archive), "--name", "old", "--description", "from afar")
    call, = agent.called("ImportBackup")
    assert got["result"] == "done" and got["dropped_modes"] == 2
    assert call.signature == "hsa{sv}" and call.arguments[1:] == ["old", {"description": "from afar"}]
    assert call.descriptors[0].stat.st_ino == archive.stat().st_ino
    code, out, err = shell.run("import", str(archive))
    assert code == 0 and out.startswith(ID % 1) and "3 privileges" in err and "left out" in err
    code, out, err = shell.run("import", str(archive), "--no-wait")
    assert code == 0 and out.splitlines() == [ID % 1, "job 7 is queued; 'holdpoint jobs' shows it"]
    assert shell.json("import", str(tmp_path / "none"), code=1)["error"]["name"] == "SourceMissing"


def test_recovery_key(shell, agent, tmp_path):  # noqa: F811
    key = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"

    def export(call):
        return "h", [0], stream(key.encode())(call)[2]
    agent.replies["ExportRecoveryKey"] = export
    target = tmp_path / "recovery.pem"
    assert shell.json("key", "export-recovery", "-o", str(target)) == {"exported": True}
    assert target.read_text() == key and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert shell.json("key", "export-recovery", "-o", str(target), code=1)["error"]["name"] == "Internal"
    assert target.read_text() == key
    assert shell.run("key", "export-recovery")[1] == key

    agent.replies["ProveRecoveryKey"] = ("", [])
    assert shell.json("key", "prove", str(target)) == {"proven": True}
    proof, = agent.called("ProveRecoveryKey")
    wanted = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert proof.signature == "h" and proof.descriptors[0].content.decode() == key
    assert proof.descriptors[0].seals == wanted
    agent.replies["ProveRecoveryKey"] = Refusal("KeyMissing", "this key does not open the repository")
    assert shell.json("key", "prove", str(target), code=1)["error"]["name"] == "KeyMissing"


def test_forgetting_the_key_asks(shell, agent):  # noqa: F811
    agent.replies["ForgetPrivateKey"] = ("", [])
    assert shell.json("key", "forget-private", code=2)["error"]["name"] == "NotConfirmed"
    assert not agent.called("ForgetPrivateKey")
    assert shell.json("key", "forget-private", "--yes") == {"forgotten": True}
    assert agent.called("ForgetPrivateKey")[0].arguments == [{}]


def test_repository(shell, agent):  # noqa: F811
    agent.replies["GetRepository"] = ("a{sv}", [dictionary(id="r", path="/var/backups/holdpoint", packs=3, features=["x", "y"])])
    assert shell.json("repository")["packs"] == 3
    code, out, err = shell.run("repository")
    assert code == 0 and "x y" in out and "/var/backups/holdpoint" in out


def test_plan(shell, agent):  # noqa: F811
    agent.replies["PlanRestore"] = ("a{sv}", [dictionary(possible=True, method="subvolume", bytes=5000)])
    assert shell.json("restore", ID % 1, "--service", "a", "--dry-run", "--from", "hot")["method"] == "subvolume"
    call, = agent.called("PlanRestore")
    assert call.arguments == [ID % 1, "a", {"from": "hot"}] and not agent.called("RestoreBackup")
    code, out, err = shell.run("restore", ID % 1, "--service", "a", "--dry-run")
    assert code == 0 and "subvolume" in out and "4.9K" in out
    agent.replies["PlanRestore"] = ("a{sv}", [dictionary(possible=False, reason="held by nginx (pid 7)")])
    code, out, err = shell.run("restore", ID % 1, "--service", "a", "--dry-run")
    assert code == 1 and "nginx" in err


def test_prune(shell, agent):  # noqa: F811
    summary = dictionary(backups=[ID % 1, ID % 2], packs=4, freed_bytes=123000000, dry_run=True)
    agent.replies["GetJob"] = job(summary=Variant("a{sv}", summary))
    code, out, err = shell.run("prune", "--dry-run")
    assert code == 0 and "would be removed: 2 backups, 4 packs, 117M" in out and ID % 2 in out
    assert agent.called("Prune")[0].arguments == [{"dry_run": True}]
