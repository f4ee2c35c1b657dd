"""A service whose subvolume is mounted by fstab: systemd takes the mount away and brings it back, with the new tree."""

from test_units import SITE, STEPS

MOUNTED = SITE + STEPS + """
# Two subvolumes that fstab mounts: one is a Path= itself, the other holds one.
mounted() {
        local uuid

        mkfs.btrfs -q -f /dev/ubdb
        mkdir -p /mnt/top /srv/app /srv/more
        mount /dev/ubdb /mnt/top
        for name in @app @more @hand; do
                btrfs subvolume create "/mnt/top/$name" >/dev/null
        done
        umount /mnt/top
        udevadm trigger --settle --action=change /dev/ubdb
        uuid=$(blkid -s UUID -o value /dev/ubdb)
        printf "UUID=$uuid /srv/%s btrfs subvol=@%s,noatime 0 0\\n" app app more more >/etc/fstab
        rm /etc/systemd/system-generators/systemd-fstab-generator
        systemctl daemon-reload
        systemctl start srv-app.mount srv-more.mount
        application /srv/app 100
        application /srv/more/b 100
        server
        # It needs the mount and sees it in a namespace of its own, and it is none of the service's units.
        printf '%s\\n' '[Unit]' RequiresMountsFor=/srv/app '[Service]' PrivateTmp=yes 'ExecStart=/bin/sleep infinity' \\
                >/etc/systemd/system/bystander.service
        systemctl daemon-reload
        echo 1000 >/run/limit
        service app /srv/app Path=/srv/more/b Unit=idle.service Unit=app.service HealthDelaySec=0 "$@"
        systemctl start app bystander local-fs.target
        holdpoint create app --json >/tmp/backup
        jq -e '.status == "completed" and (.copies | index("hot"))' /tmp/backup >/dev/null
        lose
        sqlite3 /srv/more/b/app.db 'delete from t where id > 10'
}
# Which subvolume is behind the mount; it must be the one that has the name.
behind() {
        mount -o subvolid=5 /dev/ubdb /mnt/top
        named=$(btrfs inspect-internal rootid /mnt/top/@app)
        umount /mnt/top
        same "$(btrfs inspect-internal rootid /srv/app)" "$named" "behind the mount"
        say "$named" >/tmp/behind
}
whole() {
        running_on "$1"
        same "$(rows /srv/more/b)" "$1" "rows of the other path"
        behind
        findmnt -n -o OPTIONS /srv/app | grep -q noatime
        systemctl is-active --quiet srv-app.mount
        systemctl is-active --quiet local-fs.target || fail "local-fs.target is $(systemctl is-active local-fs.target)"
}
"""


def test_restore(guest):
    guest(MOUNTED + """
        mounted
        first=$(systemctl show -P InvocationID bystander)
        inside() {
                nsenter -m -t "$(systemctl show -P MainPID bystander)" btrfs inspect-internal rootid /srv/app
        }
        behind
        before=$(cat /tmp/behind)
        holdpoint restore latest --from hot --yes --json >/tmp/restore
        whole 100
        [[ $(cat /tmp/behind) != "$before" ]] || fail "the same subvolume"
        same "$(stops) $(starts)" "1 2" "stops and starts"
        same "$(systemctl show -P InvocationID bystander)" "$first" "the other service"
        same "$(inside)" "$(cat /tmp/behind)" "what the other service sees"
        say "down for $(jq .units_down_usec /tmp/restore) us, swap $(jq .swap_usec /tmp/restore) us"
        holdpoint rollback latest --yes
        whole 10
        same "$(cat /tmp/behind)" "$before" "the old subvolume"
        holdpoint confirm latest --yes

        # Units that do not come up on what was restored: all goes back, the mount with it.
        echo 50 >/run/limit
        sed -i s/HealthDelaySec=.*/HealthDelaySec=2/ /etc/holdpoint/services.d/app.conf
        holdpoint restore latest --yes >/tmp/out 2>&1 && fail "it came up" || true
        grep -q "did not stay active.*is back" /tmp/out || fail "$(cat /tmp/out)"
        whole 10
        echo 1000 >/run/limit
        sed -i s/HealthDelaySec=.*/HealthDelaySec=0/ /etc/holdpoint/services.d/app.conf

        # The worker dies while the mount is away: the agent has it recovered.
        at exchanged=kill
        holdpoint restore latest --yes >/tmp/out 2>&1 && fail "it was not killed" || true
        rm /run/step
        recovered() {
                nothing_left && systemctl is-active --quiet app && state_is failed
        }
        soon 60 recovered
        whole 10
        same "$(systemctl show -P InvocationID bystander)" "$first" "the other service"

        # What would bring the old tree back is refused, and what systemd does not know.
        refused() {
                holdpoint restore "$1" --yes >/tmp/out 2>&1 && fail "not refused" || true
                grep -q "$2" /tmp/out || fail "$(cat /tmp/out)"
        }
        id=$(jq -r .backup_id /tmp/backup)
        starts=$(starts)
        sed -i 's/subvol=@app/subvolid=256/' /etc/fstab; systemctl daemon-reload
        refused "$id" "/srv/app is mounted by /etc/fstab with subvolid="
        sed -i 's/subvolid=256,//' /etc/fstab; systemctl daemon-reload
        refused "$id" "/srv/app is mounted by /etc/fstab without subvol="
        mkdir /srv/hand
        mount -o subvol=@hand /dev/ubdb /srv/hand
        application /srv/hand 5
        service hand /srv/hand
        manager Reload
        holdpoint create hand
        refused latest "/srv/hand is mounted by hand"
        same "$(starts)" "$starts" "starts"
        running_on 10

        # Whom a file system is opened for: root alone, and only where it may pass over modes.
        same "$(stat -c %a /run/holdpoint-workers/image.socket)" 0 "mode of image.socket"
        """, seconds=400)


def test_power_cut(guest):
    """Half of it is exchanged when the power goes: the next boot mounts the new tree, and the recovery the old one."""
    guest.keep_root()
    guest(MOUNTED + """
        mounted
        systemctl enable --quiet app holdpointd
        mkdir /etc/systemd/system/app.service.d
        printf '[Service]\\nExecStartPre=!/bin/sh -c "echo 1000 >/run/limit"\\n' >/etc/systemd/system/app.service.d/limit.conf
        systemctl daemon-reload
        at exchanged=stop
        sync
        holdpoint restore latest --yes --no-wait
        soon 30 stopped
        cut_power
        """, seconds=240)
    guest(MOUNTED + """
        systemctl is-active --quiet holdpoint-recover.service || fail "recovery failed"
        ran=$(systemctl show -P ActiveEnterTimestampMonotonic holdpoint-recover.service)
        app=$(systemctl show -P InactiveExitTimestampMonotonic app.service)
        ((ran > 0 && ran < app)) || fail "recovery did not run before the service: $ran, $app"
        whole 10
        soon 20 state_is failed
        holdpoint restore latest --yes
        whole 100
        """, seconds=240)
