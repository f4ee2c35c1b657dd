"""Least privilege: what each unit may still do is bounded, and what its jobs need works all the same.

docs/SANDBOX.md has the reasons. In every guest of this suite a denied system call kills (conftest.py).
"""

import os
import subprocess

import guest as guests
import pytest

from test_lvm import LVM

TREE = os.environ.get("HOLDPOINT_TREE") or os.path.join(guests.TOP, "build", "tree")
# Tenths, as "systemd-analyze security --threshold=" counts.
LIMITS = {
    "holdpointd.service": 5, "holdpoint-backup@.service": 29, "holdpoint-restore@.service": 29,
    "holdpoint-maintain@.service": 15, "holdpoint-configure@.service": 15, "holdpoint-recover.service": 29,
    "holdpoint@.service": 10, "holdpoint-image@.service": 20,
}


def exposure(tree, unit, limit):
    return subprocess.run(["systemd-analyze", "security", "--offline=yes", "--root=" + tree, "--no-pager",
                           "--threshold=%d" % limit, unit], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("unit", LIMITS)
def test_exposure(unit):
    done = exposure(TREE, unit, LIMITS[unit])
    assert done.returncode == 0 and "Overall exposure level" in done.stdout, done.stdout + done.stderr


def test_exposure_can_fail():
    assert exposure(TREE, "holdpoint-backup@.service", 5).returncode != 0


# What a service may hold: special files, foreign owners, setuid, capabilities, ACLs, attributes, locked directories.
SPECIAL = """
special() {
        mkdir -p "$1/locked"
        mkfifo "$1/fifo"
        mknod "$1/null" c 1 3
        mknod "$1/block" b 98 16
        cp /bin/true "$1/setuid"; chown root:games "$1/setuid"; chmod 6755 "$1/setuid"
        cp /bin/true "$1/capable"; setcap cap_net_raw+ep "$1/capable"
        echo acl >"$1/acl"; setfacl -m u:mail:r "$1/acl"
        echo x >"$1/attribute"; setfattr -n user.note -v yes "$1/attribute"; setfattr -n trusted.note -v yes "$1/attribute"
        echo x >"$1/locked/file"; chown mail "$1/locked"; chmod 000 "$1/locked/file"; chmod 0700 "$1/locked"
        ln "$1/acl" "$1/hard"; ln -s nowhere "$1/soft"
        echo x >"$1/append"; chattr +a "$1/append"
}
# Everything about a tree that a backup keeps.
facts() {
        (cd "$1" && find . ! -type d ! -name 'app.db*' -printf '%p %y %m %U %G %s %T@ %l\\n' | sort
         find . -type f ! -name 'app.db*' -exec sha256sum {} + | sort
         find . ! -name 'app.db*' | sort | xargs getfattr -h -d -m - ; getcap -r . | sort
         lsattr append | cut -d' ' -f1; stat -c '%n %t %T' null block)
}
"""


@pytest.mark.parametrize("kind", ["btrfs", "ext4"])
def test_special_files_come_back(guest, kind):
    """The repository, not the hot copy: everything is written anew by the restore class."""
    guest(SPECIAL + """
        data %s
        application /srv/app
        special /srv/app
        service app /srv/app %s
        holdpoint create app --json | jq -e '.status == "completed"'
        facts /srv/app >/tmp/before
        chattr -a /srv/app/append
        rm -rf /srv/app/[a-z]*
        holdpoint restore latest --from local --yes
        facts /srv/app >/tmp/after
        diff /tmp/before /tmp/after
        mkdir /srv/out
        holdpoint restore latest --from local --into /srv/out
        facts /srv/out/app/srv/app >/tmp/aside
        diff /tmp/before /tmp/aside
        """ % (kind, "" if kind == "btrfs" else "Snapshot=none"), seconds=240)


RESTORE = ("CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER CAP_FSETID CAP_SETFCAP CAP_SYS_PTRACE CAP_MKNOD "
           "CAP_LINUX_IMMUTABLE CAP_SETUID CAP_SETGID")
BACKUP = "CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_FOWNER CAP_CHOWN CAP_SETUID CAP_SETGID"

# each CLASS RIGHT…: without any single one of them `good` fails; with it, it does not.
EACH = r"""
each() {
        local class=$1 right less=/etc/systemd/system/holdpoint-$1@.service.d/less.conf

        shift
        mkdir -p "${less%/*}"
        for right in "$@"; do
                printf '[Service]\nCapabilityBoundingSet=~%s\n' "$right" >"$less"
                systemctl daemon-reload
                ! good || fail "nothing in $class needs $right"
                rm "$less"
                systemctl daemon-reload
                good || fail "with $right it fails too"
        done
}
"""


def test_each_right_of_a_restore_is_needed(guest):
    """Without any single one of them a restore fails or is not faithful. (CAP_KILL is for helpers that hang.)"""
    guest.denials_expected = "."
    guest(SPECIAL + EACH + """
        data btrfs
        application /srv/app
        special /srv/app
        service app /srv/app
        holdpoint create app
        facts /srv/app >/tmp/before
        good() {
                chattr -a /srv/app/append
                holdpoint restore latest --from local --yes && facts /srv/app | diff /tmp/before -
        }
        good
        each restore %s
        """ % RESTORE, seconds=500)


def test_each_right_of_a_backup_is_needed(guest):
    """The same for backups of all kinds of sources, and for the class that opens hot copies in LVM."""
    guest.denials_expected = "."
    guest.disks.append(guest.disk("more"))
    guest(SPECIAL + EACH + LVM + """
        group
        pool 600M
        thin thin 300M
        data ext4 /dev/vg-a/thin /thin
        data btrfs /dev/ubdc /srv
        btrfs -q subvolume create /srv/app
        for directory in /srv/app /srv/plain /thin/app; do
                application $directory
        done
        special /srv/app
        service app /srv/app
        service plain /srv/plain Snapshot=none
        facts /srv/app >/tmp/before
        good() {
                out=$(mktemp -d /srv/out.XXXXXX)
                holdpoint create full --json >/tmp/backup && jq -e '.status == "completed"' /tmp/backup &&
                        holdpoint restore latest --from local --into "$out" &&
                        facts "$out/app/srv/app" | diff /tmp/before - &&
                        same_times
        }
        same_times() {
                [[ $(stat -c '%%Y %%U' "$out"/*/srv/*/app.db) == "$(stat -c '%%Y %%U' /srv/app/app.db /srv/plain/app.db)" ]]
        }
        good || fail "not even with all rights"
        each backup %s

        # The right to end a helper of another user's, which stands still while it holds a lock.
        hang() {
                step held=stop
                printf 'Environment=HOLDPOINT_DEBUG=1\n' >>/etc/systemd/system/holdpoint-backup@.service.d/step.conf
                systemctl daemon-reload
                holdpoint create plain --no-wait
                soon 60 stopped
                pkill -STOP -x holdpoint-sqlit
                kill -CONT "$(stopped)"
                soon 60 gone
                journalctl --sync
        }
        stays() {
                journalctl -b -o cat _COMM=holdpoint-worke | grep 'helper .* does not end'
        }
        hang
        ! stays || fail "with all rights"
        printf '[Service]\nCapabilityBoundingSet=~CAP_KILL\n' >/etc/systemd/system/holdpoint-backup@.service.d/less.conf
        hang
        stays || fail "nothing needs CAP_KILL"
        rm -r /etc/systemd/system/holdpoint-backup@.service.d
        systemctl daemon-reload

        service thin /thin/app
        systemctl reload holdpointd
        holdpoint create thin
        good() {
                holdpoint restore latest --from hot --yes
        }
        good
        each image CAP_SYS_ADMIN
        """ % BACKUP, seconds=600)


def test_holders_are_seen(guest):
    """A process of another user, in a mount namespace of its own, in the target: nothing is exchanged."""
    guest("""
        data btrfs
        application /srv/app
        service app /srv/app
        holdpoint create app
        systemd-run --quiet --unit=holder -p User=games -p PrivateTmp=yes -p WorkingDirectory=/srv/app sleep 1000
        soon 10 test "$(systemctl show -P MainPID holder)" -gt 0
        status 1 holdpoint restore latest --yes 2>&1 | tee /tmp/refused
        grep -q "$(systemctl show -P MainPID holder)" /tmp/refused
        systemctl stop holder
        holdpoint restore latest --yes
        """)


def test_without_the_right_to_look_nothing_is_exchanged(guest):
    """Less privilege than needed must not make the proof a formality."""
    guest("""
        data btrfs
        application /srv/app
        service app /srv/app
        mkdir -p /etc/systemd/system/holdpoint-restore@.service.d
        printf '[Service]\\nCapabilityBoundingSet=~CAP_SYS_PTRACE\\n' \\
                >/etc/systemd/system/holdpoint-restore@.service.d/x.conf
        systemctl daemon-reload
        holdpoint create app
        status 1 holdpoint restore latest --yes 2>&1 | tee /tmp/refused
        grep -q CAP_SYS_PTRACE /tmp/refused
        """)


def test_every_verb(guest):
    """Each class with each of its verbs, in the sandbox that the units give it."""
    guest("""
        data btrfs
        application /srv/app 100
        service app /srv/app
        holdpoint create app
        sqlite3 /srv/app/app.db 'delete from t where id > 50'
        holdpoint create app
        first=$(holdpoint list --json | jq -r '.backups[1].backup_id')
        holdpoint verify latest --depth metadata
        holdpoint verify latest --depth data
        holdpoint verify latest --depth restore
        holdpoint repository | grep -q /var/backups/holdpoint
        holdpoint jobs >/dev/null
        holdpoint restore latest --dry-run --yes >/dev/null
        holdpoint files latest | grep app.db >/dev/null
        holdpoint diff "$first" latest | grep app.db >/dev/null
        holdpoint export latest --format tar.zst -o /tmp/backup.tar.zst
        zstd -dc /tmp/backup.tar.zst | tar t | grep app.db >/dev/null
        imported=$(holdpoint import /tmp/backup.tar.zst --json | jq -r .backup_id)
        holdpoint verify "$imported" --depth restore
        holdpoint delete "$imported" --yes
        holdpoint export latest --format tar -o /tmp/backup.tar
        holdpoint pin "$first"
        holdpoint unpin "$first"
        holdpoint prune --yes
        holdpoint schedule set nightly --type app
        holdpoint schedule show nightly | grep -q daily
        holdpoint schedule run nightly
        holdpoint schedule list | grep -q nightly
        holdpoint schedule delete nightly --yes
        holdpoint restore latest --yes
        same "$(rows /srv/app)" 50 "rows after a restore of what was there"
        holdpoint rollback latest --yes
        holdpoint confirm latest --yes
        holdpoint key export-recovery --output /tmp/recovery.pem
        holdpoint key prove /tmp/recovery.pem
        holdpoint key forget-private --yes
        test ! -e /etc/holdpoint/keys/private.pem
        holdpoint restore "$first" --from local --key /tmp/recovery.pem --yes
        same "$(rows /srv/app)" 100 "rows after a restore with the key from elsewhere"
        holdpoint confirm latest --yes
        holdpoint delete "$first" --yes
        holdpoint prune --yes
        holdpoint create app
        holdpoint status
        """, seconds=300)


def test_keys_from_systemd(guest):
    """LoadCredential= for a passphrase, then for all keys: nothing of them lies in the configuration."""
    guest("""
        # load NAME…: credentials of all workers, from a directory of root's.
        load() {
                for class in backup restore maintain configure; do
                        mkdir -p "/etc/systemd/system/holdpoint-$class@.service.d"
                        { echo '[Service]'; printf 'LoadCredential=holdpoint.%s:/etc/secrets/%s\\n' "$@"; } \
                                >"/etc/systemd/system/holdpoint-$class@.service.d/keys.conf"
                done
                systemctl daemon-reload
        }
        all() {
                holdpoint create app --json | jq -e '.status == "completed"'
                holdpoint verify latest --depth data
                sqlite3 /srv/app/app.db 'delete from t where id > 10'
                holdpoint restore latest --from local --yes
                same "$(rows /srv/app)" 100 "rows, with $1"
                holdpoint confirm latest --yes
                holdpoint export latest --format tar -o /tmp/backup.tar
                holdpoint key export-recovery -o "/tmp/$1.pem"
                holdpoint key prove "/tmp/$1.pem"
        }
        mount --make-rshared / # as on a real machine: it is by such a mount that credentials come
        data btrfs
        application /srv/app 100
        service app /srv/app
        mkdir -m 0700 /etc/secrets
        echo 'four words of mine' >/etc/secrets/passphrase
        load passphrase passphrase
        all passphrase
        test -s /etc/holdpoint/keys/private.wrapped -a ! -e /etc/holdpoint/keys/private.pem

        mv /etc/holdpoint/keys/host.secret /etc/secrets/host-secret
        mv /etc/holdpoint/keys/private.wrapped /etc/secrets/private-key
        load passphrase passphrase host-secret host-secret private-key private-key
        all credentials
        ! ls /etc/holdpoint/keys | grep -E 'private|secret' || fail "copied to disk"
        status 2 holdpoint key forget-private --yes
        """, seconds=300)


def test_repository_elsewhere(guest):
    """systemd is told of the repository when it reads its units: all classes can work, and may write nothing else."""
    guest("""
        data btrfs
        application /srv/app 100
        service app /srv/app
        mkdir -p /etc/holdpoint/holdpoint.conf.d
        elsewhere() {
                printf '[Repository]\\nPath=%s\\n' "$1" >/etc/holdpoint/holdpoint.conf.d/store.conf
                systemctl daemon-reload
                systemctl reload-or-restart holdpointd
                holdpoint create app --json >/tmp/backup
                jq -e '.status == "completed"' /tmp/backup
                [[ -d $1/packs ]] || fail "no repository in $1"
                holdpoint verify latest --depth data
                holdpoint pin latest
                holdpoint unpin latest
                holdpoint key export-recovery -o "/tmp/$2.pem"
                holdpoint key prove "/tmp/$2.pem"
                holdpoint prune --yes
                holdpoint delete latest --yes
                holdpoint doctor --json >/tmp/report || true
                same "$(jq '[.findings[] | select(.check == "sandbox" and .severity != "ok")] | length' /tmp/report)" 0 \
                        "sandboxes that the doctor finds too narrow, for $1"
        }
        elsewhere '/srv/the "store" 100%s' one
        rm -r /etc/holdpoint/keys
        home=/home
        elsewhere $home/ops/store two
        # What else is at home is not written, nor the rest of the system.
        systemctl cat holdpoint-maintain@x.service | tee /tmp/unit
        grep -qx 'ProtectHome=read-only' /tmp/unit
        grep -qx 'ReadWritePaths="-'$home'/ops/store"' /tmp/unit

        # A broken configuration grants nothing, and systemd goes on.
        echo nonsense >>/etc/holdpoint/holdpoint.conf.d/store.conf
        systemctl daemon-reload
        ! systemctl cat holdpoint-maintain@x.service | grep $home/ops || fail "named in spite of a mistake"
        dmesg | grep 'holdpoint-generator: .*store.conf:3'
        rm /etc/holdpoint/holdpoint.conf.d/store.conf
        systemctl daemon-reload
        ! systemctl cat holdpoint-maintain@x.service | grep 50-repository || fail "named without need"
        """, seconds=300)
