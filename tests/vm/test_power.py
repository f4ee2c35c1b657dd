"""The power is cut in the middle of everything; the next boot's recovery makes it whole before services start."""

import pytest

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
