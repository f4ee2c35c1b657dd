"""The power is cut in the middle of everything; the next boot's recovery makes it whole before services start."""

import pytest

from test_lvm import LVM, SECONDS

SETUP = """
data btrfs
mkdir /srv/app
application /srv/app 100
service app /srv/app
systemctl enable --quiet holdpointd
holdpoint create app
sqlite3 /srv/app/app.db 'delete from t where id > 10'
printf '[Unit]\\nRequiresMountsFor=/srv\\n[Mount]\\nWhat=/dev/ubdb\\nWhere=/srv\\n[Install]\\nWantedBy=local-fs.target\\n' \\
        >/etc/systemd/system/srv.mount
# An ordinary service that looks at its data as it starts.
printf '[Service]\\nType=oneshot\\nExecStart=/bin/sh -c "sqlite3 /srv/app/app.db \\\\"select count(*) from t\\\\" >/run/seen"\\n[Install]\\nWantedBy=multi-user.target\\n' \\
        >/etc/systemd/system/app.service
systemctl daemon-reload
systemctl enable --quiet srv.mount app.service
sync
"""


@pytest.mark.parametrize("step,rows", [("staged", 10), ("intent", 10), ("exchanged", None), ("settled", 100)])
def test_cut_in_a_restore(guest, step, rows):
    """Old or new, whole, before the service starts; and what the agent tells afterwards is what is there."""
    guest.keep_root()
    guest(SETUP + """
        pause restore %s
        sync
        holdpoint restore latest --yes --no-wait
        soon 30 stopped
        cut_power
        """ % step, seconds=240)
    result = guest("""
        ran=$(systemctl show -P ActiveEnterTimestampMonotonic holdpoint-recover.service)
        app=$(systemctl show -P InactiveExitTimestampMonotonic app.service)
        ((ran > 0 && ran < app)) || fail "recovery did not run before the service: $ran, $app"
        systemctl is-active --quiet holdpoint-recover.service || fail "recovery failed"
        say "SEEN $(cat /run/seen)"
        same "$(rows /srv/app)" "$(cat /run/seen)" "rows, now and when the service started"
        same "$(sqlite3 /srv/app/app.db 'pragma integrity_check')" ok "the database"
        rm -rf /etc/systemd/system/holdpoint-restore@.service.d/step.conf; systemctl daemon-reload
        holdpoint restore latest --yes
        same "$(rows /srv/app)" 100 "rows after a restore"
        holdpoint rollback latest --yes
        """, seconds=240)
    seen = int(result.output.split("SEEN ")[1].split()[0])
    assert seen in ((10, 100) if rows is None else (rows,))


@pytest.mark.parametrize("step", ["released", "sealed", "packs-durable", "committed"])
def test_cut_in_a_backup(guest, step):
    """Earlier backups stay good, the cut one is there whole or not at all, and the next run leaves nothing over."""
    guest.keep_root()
    guest(SETUP + """
        pause backup %s
        sync
        holdpoint create app --no-wait
        soon 30 stopped
        cut_power
        """ % step, seconds=240)
    guest("""
        rm -rf /etc/systemd/system/holdpoint-backup@.service.d/step.conf; systemctl daemon-reload
        holdpoint create app
        for id in $(holdpoint list --status completed --json | jq -r '.backups[].backup_id'); do
                holdpoint verify "$id"
        done
        same "$(holdpoint list --status completed --json | jq .total)" %d "completed backups"
        same "$(holdpoint list --status running --json | jq .total)" 0 "backups that run"
        same "$(ls -A /srv/.holdpoint | wc -l)" "$(holdpoint list --status completed --json | jq '[.backups[] | select(.copies | index("hot"))] | length')" "images"
        """ % (3 if step == "committed" else 2), seconds=240)


LOGICAL_VOLUMES = LVM + r"""
group
classic data 400M
pool 600M
thin thin 400M
data ext4 /dev/vg-a/data /srv
data xfs /dev/vg-a/thin /thin
application /srv/app 200
application /thin/app 300
service one /srv/app
service two /thin/app Unit=app.service HealthDelaySec=1
# A service that keeps its data open, and says what it has found.
printf '[Service]\nExecStart=/bin/sh -c "cd /thin/app; sqlite3 app.db \\"select count(*) from t\\" >>/run/seen; exec sleep infinity <app.db"\n[Install]\nWantedBy=multi-user.target\n' \
        >/etc/systemd/system/app.service
printf '[Unit]\nDefaultDependencies=no\nAfter=systemd-udevd.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/sbin/modprobe -a dm_snapshot dm_thin_pool\nExecStart=/sbin/vgchange -q -ay vg-a\n' \
        >/etc/systemd/system/volumes.service
for mount in srv:data thin:thin; do
        printf '[Unit]\nRequires=volumes.service\nAfter=volumes.service\n[Mount]\nWhat=/dev/vg-a/%s\nWhere=/%s\n[Install]\nWantedBy=local-fs.target\n' \
                "${mount#*:}" "${mount%:*}" >"/etc/systemd/system/${mount%:*}.mount"
done
mkdir /etc/systemd/system/app.service.d
printf '[Unit]\nRequiresMountsFor=/thin\n' >/etc/systemd/system/app.service.d/mount.conf
systemctl daemon-reload
systemctl enable --quiet --now app.service
systemctl enable --quiet holdpointd srv.mount thin.mount
holdpoint create full
sqlite3 /thin/app/app.db 'delete from t where id > 10'
rm /thin/app/files/3
"""


def test_cuts_on_lvm(guest):
    """In a backup: what it leaves goes soon after the next start, with no backup asked for. In a restore from a hot copy: old or new."""
    guest.keep_root()
    guest(LOGICAL_VOLUMES + """
        step point-taken=stop
        sync
        holdpoint create full --no-wait
        soon 120 stopped
        same "$(ours | wc -l)" 3 "the hot copy, and two images of a backup"
        sync
        cut_power
        """, seconds=SECONDS)
    guest(LVM + """
        rm -r /etc/systemd/system/holdpoint-*@.service.d/step.conf
        systemctl daemon-reload
        swept() { [[ $(ours | wc -l) == 1 ]]; }
        soon 120 swept
        clean
        journalctl --sync
        same "$(journalctl -b -o cat MESSAGE_ID=d4bcf7cf813d42f0aa37bf464fb24d65 | grep -c 'removed hot[.]')" 2 "lines about leftovers"
        same "$(holdpoint list --json --status completed | jq .total)" 1 "completed backups"
        same "$(rows /thin/app)" 10 rows
        pause restore exchanged
        sync
        holdpoint restore latest --service two --from hot --yes --no-wait
        soon 120 stopped
        cut_power
        """, seconds=SECONDS)
    guest(LVM + """
        systemctl is-active --quiet holdpoint-recover.service || fail "recovery failed"
        rm -r /etc/systemd/system/holdpoint-*@.service.d/step.conf
        systemctl daemon-reload
        seen=$(cat /run/seen)
        same "$(rows /thin/app)" "$seen" "rows, now and when the service started"
        same "$seen $(ls /thin/app/files | wc -l)" "$([[ $seen == 10 ]] && echo "10 4" || echo "300 5")" "rows and files"
        same "$(sqlite3 /thin/app/app.db 'pragma integrity_check')" ok "the database"

        # Hot copy of a thin volume, the service's unit around it, there and back.
        sqlite3 /thin/app/app.db 'delete from t where id > 7'
        holdpoint restore latest --service two --from hot --yes --json >/tmp/restore
        jq -e '.result == "done" and .method == "directory" and .from == "hot" and .units_down_usec > 0' /tmp/restore
        same "$(rows /thin/app) $(tail -n 1 /run/seen)" "300 300" "rows after the restore, and what the service has found"
        holdpoint rollback latest --yes
        same "$(rows /thin/app) $(tail -n 1 /run/seen)" "7 7" "after the rollback"
        holdpoint rollback latest --yes
        same "$(rows /thin/app) $(tail -n 1 /run/seen)" "300 300" "after the second rollback"
        holdpoint confirm latest --yes
        systemctl is-active --quiet app.service
        clean
        """, seconds=SECONDS)
