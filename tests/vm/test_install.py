"""What `./run install` leaves is at home under systemd: nothing is enabled or started by hand."""

import pytest


def test_first_call_starts_it(guest):
    guest("""
        systemctl is-active holdpointd && fail "it runs already" || true
        manager GetStatus 'a{sv}' 0 | grep -q '"state" s "running"'
        systemctl is-active --quiet holdpointd
        for class in backup restore maintain configure; do
                systemctl is-active --quiet "holdpoint-$class.socket"
                same "$(stat -c '%a %U' "/run/holdpoint-workers/$class.socket")" '600 holdpoint' "socket of $class"
        done
        pid=$(systemctl show -P MainPID holdpointd)
        same "$(ps -o user= -p "$pid")" holdpoint "user of the agent"
        grep -q '^CapEff:.0*$' "/proc/$pid/status"
        grep -q '^CapBnd:.0*$' "/proc/$pid/status"
        same "$(stat -c '%a %U' /var/lib/holdpoint)" '700 holdpoint' "the agent's state"
        same "$(stat -c '%a %U' /var/backups/holdpoint)" '700 root' "the repository"

        # The examples of services are there, read by nobody, and right as they are.
        for name in main_service admin_service system_config; do
                cmp "/etc/holdpoint/services.d/$name.conf.example" "/usr/share/doc/holdpoint/examples/services.d/$name.conf"
        done
        manager GetStatus 'a{sv}' 0 | grep -q 'main_service' && fail "an example is read" || true
        for name in main_service admin_service system_config; do
                mv "/etc/holdpoint/services.d/$name.conf.example" "/etc/holdpoint/services.d/$name.conf"
        done
        holdpointd --check-config
        systemctl reload holdpointd
        manager GetStatus 'a{sv}' 0 | grep -q '"main_service"' || fail "$(manager GetStatus 'a{sv}' 0)"
        """)


# A volume with ext4 on /srv. Its kernel modules are loaded by the install, and at boot by modules-load.d.
LOGICAL_VOLUME = """
        pvcreate -q /dev/ubdb >/dev/null
        vgcreate -q vg /dev/ubdb >/dev/null
        lvcreate -q -y -L 400M -n data vg >/dev/null
        data ext4 /dev/vg/data
        """


@pytest.mark.parametrize("disk,consistency", [("data btrfs", "application"), ("data ext4", "none"),
                                              (LOGICAL_VOLUME, "application crash")], ids=["btrfs", "ext4", "lvm"])
def test_enable_and_create(guest, disk, consistency):
    """A first backup, a restore by swap, a rollback and all checks, on a machine as it comes, with no setting but a Path=.

    One lvcreate takes longer in a guest than a hold may last by default.
    """
    guest("""
        %s
        application /srv/app 100
        service app /srv/app
        systemctl enable --quiet --now holdpointd
        holdpoint create app --json >/tmp/backup
        same "$(jq -r .status /tmp/backup)" completed status
        grep -qw "$(jq -r .consistency /tmp/backup)" <<<'%s' || fail "consistency: $(cat /tmp/backup)"
        same "$(stat -c '%%a %%U' /var/lib/holdpoint-worker)" '700 root' "the workers' state"
        holdpoint verify latest
        before=$(sha256sum /srv/app/files/*)
        sqlite3 /srv/app/app.db 'delete from t where id > 10'
        rm /srv/app/files/3
        holdpoint restore latest --service app --yes
        same "$(rows /srv/app)" 100 "rows after the restore"
        same "$(sha256sum /srv/app/files/*)" "$before" "files after the restore"
        same "$(stat -c %%U /srv/app/app.db)" games "owner after the restore"
        holdpoint rollback latest --yes
        same "$(rows /srv/app)" 10 "rows after the rollback"
        holdpoint rollback latest --yes
        holdpoint confirm latest --yes
        mkdir /tmp/aside
        holdpoint restore latest --service app --into /tmp/aside
        same "$(sqlite3 /tmp/aside/app/srv/app/app.db 'select count(*) from t')" 100 "rows aside"
        holdpoint delete latest --yes
        same "$(holdpoint list --json | jq .total)" 0 "backups that are left"
        """ % (disk, consistency), seconds=400)
