"""The shipped example of an admin backend, run as one: another user, with what polkit's example rules allow."""

import os
import pwd
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

from holdpoint import TOP, Install, LoopFs, Machine, run  # noqa: E402
from polkit import RULES, Polkit  # noqa: E402

EXAMPLE = os.path.join(TOP, "units", "examples", "admin-backend", "backend.py")
USER = "www-data"


@pytest.fixture(scope="module")
def machine():
    with LoopFs("btrfs", 512) as fs, Install() as install, Machine(install=install) as m:
        data = fs.subvolume("app")
        run("sqlite3", os.path.join(data, "app.db"), "pragma journal_mode=wal; create table t(x); insert into t values (1)")
        os.mkdir(os.path.join(data, "files"))
        for i in range(200):
            with open(os.path.join(data, "files", "%d" % i), "w") as f:
                f.write("file %d\n" % i * 100)
        m.write_service("app", data)
        m.data = data
        m.script = shutil.copy(EXAMPLE, os.path.join(m.directory, "backend.py"))
        os.chmod(m.script, 0o755)
        m.home = os.path.join(m.directory, "home")
        os.mkdir(m.home)
        os.chown(m.home, pwd.getpwnam(USER).pw_uid, -1)
        yield m.start()


def backend(machine, *arguments):
    account = pwd.getpwnam(USER)
    return subprocess.run(["/usr/bin/python3", machine.script, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=120, cwd=machine.home, user=account.pw_uid, group=account.pw_gid, extra_groups=[],
                          env={"PATH": "/usr/bin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": machine.bus.address})


def rules(*more):
    with open(RULES) as f:
        text = f.read().replace('"yeepay-admin"', '"%s"' % USER)
    wanted = '"org.holdpoint.backup1.verify"'
    assert wanted in text
    return text.replace(wanted, ", ".join([wanted] + ['"org.holdpoint.backup1.%s"' % m for m in more]))


def test_create_follow_and_list(machine):
    with Polkit(machine, rules()):
        done = backend(machine, "create", "app", "from_the_backend")
        assert done.returncode == 0, done.stderr + machine.logs()
        lines = done.stdout.splitlines()
        assert " completed: " in lines[-1] and any("%" in line for line in lines[:-1])
        backup = lines[-1].split()[0]
        listed = backend(machine, "list").stdout.splitlines()
        assert listed[0].startswith(backup) and listed[0].endswith("from_the_backend") and listed[-1] == "1 in all"
        assert "backup_count           1" in backend(machine, "status").stdout
        denied = backend(machine, "download", backup, "x.tar.zst")
        assert denied.returncode == 1 and "AccessDenied" in denied.stderr and os.listdir(machine.home) == []


def test_download(machine):
    with Polkit(machine, rules("read-files")):
        backup = backend(machine, "create", "app", "to_download").stdout.split()[-8]
        done = backend(machine, "download", backup, "x.tar.zst")
        assert done.returncode == 0, done.stderr + machine.logs()
        assert os.listdir(machine.home) == ["x.tar.zst"]
        out = os.path.join(machine.directory, "out")
        os.mkdir(out)
        run("tar", "--zstd", "-xf", os.path.join(machine.home, "x.tar.zst"), "-C", out)
        run("diff", "-r", os.path.join(machine.data, "files"), os.path.join(out, "app", machine.data.lstrip("/"), "files"))


def test_errors_have_names(machine):
    with Polkit(machine, rules("read-files")):
        unknown = backend(machine, "create", "nonsense", "x")
        assert unknown.returncode == 1 and unknown.stderr.startswith("NoSuchService: ")
        missing = backend(machine, "download", "01234567-89ab-4cde-8f01-23456789abcd", "y")
        assert missing.returncode == 1 and missing.stderr.startswith("NoSuchBackup: ")
        assert backend(machine, "nonsense").returncode == 2
