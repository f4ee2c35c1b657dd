"""Stopped in good order, by `systemctl stop` of a worker or by a shutdown: before a swap it is canceled, in one it is whole."""

from test_units import SITE, STEPS

BOOTS = SITE + STEPS + r"""
restore_until() {
        at "$1=stop"
        holdpoint restore latest --yes --no-wait
        soon 60 stopped
        rm /run/step
}
# nothing_to_recover: the worker has brought it to its end itself.
nothing_to_recover() {
        ! journalctl -b -o cat -u holdpoint-recover.service | grep 'it was interrupted' || fail "it was left to recovery"
}
"""


def test_stop_in_a_restore(guest):
    guest.keep_root()
    guest(BOOTS + r"""
        site
        systemctl enable --quiet --now holdpointd
        systemctl enable --quiet app
        mkdir /etc/systemd/system/app.service.d
        printf '[Service]\nExecStartPre=!/bin/sh -c "echo 1000 >/run/limit"\n' >/etc/systemd/system/app.service.d/limit.conf
        printf '[Mount]\nWhat=/dev/ubdb\nWhere=/srv\n[Install]\nWantedBy=local-fs.target\n' >/etc/systemd/system/srv.mount
        systemctl daemon-reload
        systemctl enable --quiet srv.mount

        for step in staged units-blocked exchanged units-let-go; do
                before=$(stops)
                restore_until "$step"
                systemctl stop 'holdpoint-restore@*.service'
                soon 20 gone
                result=$(holdpoint jobs --json | jq -r '[.jobs[] | select(.type == "restore")][0].result')
                case $step in
                staged | units-blocked)
                        same "$result $(newest state)" "canceled failed" "stopped at $step"
                        running_on 10 "$before"
                        ;;
                *)
                        same "$result $(newest state)" "done active" "stopped at $step"
                        running_on 100
                        lose
                        ;;
                esac
        done
        same "$(find /srv/.holdpoint -maxdepth 1 -name 'restore.*' | wc -l)" 2 "kept trees, of the two that are active"

        pause backup sealed
        holdpoint create app --no-wait
        soon 60 stopped
        systemctl stop 'holdpoint-backup@*.service'
        soon 20 gone
        job_is backup canceled
        rm -r /etc/systemd/system/holdpoint-backup@.service.d
        systemctl daemon-reload
        same "$(holdpoint list --json --status completed | jq .total)" 1 "backups"

        restore_until units-blocked
        shut_down
        """, seconds=300)
    guest(BOOTS + r"""
        nothing_to_recover
        soon 20 state_is failed
        running_on 10
        restore_until exchanged
        shut_down
        """, seconds=240)
    guest(BOOTS + r"""
        nothing_to_recover
        soon 20 state_is active
        running_on 100
        lose
        # Its unit goes down with the system while it is being watched: that says nothing about the data.
        sed -i s/HealthDelaySec=.*/HealthDelaySec=40/ /etc/holdpoint/services.d/app.conf
        restore_until units-up
        shut_down
        """, seconds=240)
    guest(BOOTS + r"""
        nothing_to_recover
        soon 20 state_is active
        running_on 100
        """, seconds=240)
