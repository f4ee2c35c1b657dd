"""The runner itself: without these nothing that a guest says is worth anything."""

import os
import time

import guest as guests


def test_status_and_output(guest):
    result = guest("say hello; ls -l /dev/ubdb; type sqlite3 busctl; exit 7", status=7)
    assert "hello" in result.output and "/dev/ubdb" in result.output


def test_time_is_bounded(guest):
    began = time.monotonic()
    result = guest("sleep 1000", seconds=12, status=guests.TIMEOUT)
    assert time.monotonic() - began < 60 and result.journal == ""


def test_a_panic_is_no_result(guest):
    guest("echo c >/proc/sysrq-trigger", status=guests.NO_RESULT)


def test_what_is_denied_is_seen(guest):
    """A unit that may not do what its worker must: the test fails, not only the job."""
    guest.denials_expected = True
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


def test_cut_and_boot_again(guest):
    """Power cuts take what was not synced; the root that a test keeps is there again."""
    guest.keep_root()
    result = guest("""
        data ext4
        echo kept >/srv/kept; echo here >/etc/here
        systemctl enable --quiet holdpointd
        sync
        cut_power
        """)
    assert result.journal == ""
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
