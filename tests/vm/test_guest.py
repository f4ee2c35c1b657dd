"""The runner itself: without these nothing that a guest says is worth anything."""

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import time

import conftest
import guest as guests
import pytest


def test_status_and_output(guest):
    result = guest("say hello; same $(blockdev --getsize64 /dev/ubdb) 2147483648 size; type sqlite3 busctl; exit 7", status=7)
    assert "hello" in result.output


@pytest.mark.parametrize("given", ["a file", "standard input"])
def test_a_script_by_hand(tmp_path, given):
    """What `./run vm SCRIPT` calls: its output while it runs, its status, nothing left; 124 when the time is up."""
    script, text = tmp_path / "script", "type holdpoint; busctl --version >/dev/null && echo works; exit 7\n"
    script.write_text(text if given == "a file" else "")
    before = set(os.listdir(guests.RUNS))
    done = subprocess.run([sys.executable, guests.__file__] + ([str(script)] if given == "a file" else []), check=False,
                          input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 7 and "works\n" in done.stdout, done
    left = {name for name in set(os.listdir(guests.RUNS)) - before if name.startswith("run-")}
    assert not left
    if given == "a file":
        script.write_text("sleep 1000\n")
        done = subprocess.run([sys.executable, guests.__file__, "--seconds", "3", str(script)], check=False,
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 124 and "time was up" in done.stderr, done


def test_a_shell():
    """What `./run vm` calls on a terminal: a root shell as wide as it, whose status it ends with."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, guests.__file__])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    text, asked = "", False
    try:
        while True:
            text += os.read(terminal, 4096).decode(errors="replace")
            if "# " in text and not asked:
                asked = True
                os.write(terminal, b"echo $(id -u):$(stty size):$(type -t holdpoint); exit 5\n")
    except OSError:
        pass # its end
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    assert status == 5 and "0:33 111:file" in text, text


def test_logs_of_a_failure_are_kept():
    kept = os.path.join(conftest.FAILED, "test_that_fails")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c",
                           os.path.join(guests.TOP, "tests", "pytest.ini"), os.path.join(guests.HERE, "failing.py")],
                          check=False, capture_output=True, text=True, timeout=300,
                          env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")})
    assert done.returncode == 1 and "1 failed" in done.stdout and "kept: " + kept in done.stdout, done.stdout
    found = {}
    for name in ("out", "journal", "console", "install", "init"):
        with open(os.path.join(kept, "boot-1", name)) as f:
            found[name] = f.read()
    shutil.rmtree(kept)
    assert found["out"] == "before it failed\n" and "systemd[1]" in found["journal"] and "guest.service" in found["console"]


def test_time_is_bounded(guest):
    began = time.monotonic()
    result = guest("sleep 1000", seconds=12, status=guests.TIMEOUT)
    assert time.monotonic() - began < 60 and result.journal == ""


def test_a_panic_is_no_result(guest):
    guest("echo c >/proc/sysrq-trigger", status=guests.NO_RESULT)


def test_what_is_denied_is_seen(guest):
    """A unit that may not do what its worker must: the test fails, not only the job."""
    guest.denials_expected = "."
    result = guest("""
        mkdir -p /etc/systemd/system/holdpoint-maintain@.service.d
        printf '[Service]\\nSystemCallFilter=~flock\\n' >/etc/systemd/system/holdpoint-maintain@.service.d/x.conf
        systemctl daemon-reload
        data ext4
        application /srv/app
        service app /srv/app Snapshot=none
        holdpoint create app
        holdpoint verify latest && exit 1 || true
        """)
    assert "signal=SYS" in result.journal or "status=31/SYS" in result.journal, result.journal


def test_what_is_denied_before_a_cut_is_seen(guest):
    with pytest.raises(AssertionError, match="denied by a sandbox"):
        guest("""
            systemd-run --quiet --wait -p SystemCallFilter=~mkdir mkdir /tmp/x || true
            journalctl --sync
            cut_power
            """)


def test_cut_and_boot_again(guest):
    """Power cuts take what was not synced; the root that a test keeps is there again."""
    guest.keep_root()
    result = guest("""
        data ext4
        echo kept >/srv/kept; echo here >/etc/here
        logger -t holdpoint-worker 'a line before the cut'
        journalctl --sync
        systemctl enable --quiet holdpointd
        sync
        cut_power
        """)
    assert result.journal == "" and "a line before the cut" in result.console
    result = guest("""
        mount /dev/ubdb /srv
        same "$(cat /srv/kept)$(cat /etc/here)" kepthere "after the cut"
        soon 20 systemctl is-active --quiet holdpointd
        """)
    assert result.journal


def test_nothing_reaches_the_host(guest):
    guest("echo x >/etc/holdpoint-guest-was-here; echo x >/usr/bin/holdpoint-guest-was-here")
    assert not os.path.exists("/etc/holdpoint-guest-was-here")
    assert not os.path.exists("/usr/bin/holdpoint-guest-was-here")
