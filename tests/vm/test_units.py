"""Units of a service: down for a swap and only then, up again on old or new, whatever happens in between."""

import pytest

# A service that keeps its database open and writes to it. It does not start on more rows than /run/limit says.
SITE = """
server() {
        cat >/usr/local/bin/server <<'END'
#!/bin/bash
n=$(sqlite3 /srv/app/app.db 'select count(*) from t')
echo "start $n"
((n <= $(cat /run/limit))) || exit 1
cd /srv/app
exec sqlite3 app.db < <(while sleep 0.2; do echo "update t set x='w' where id=1;"; done)
END
        chmod 755 /usr/local/bin/server
        printf '%s\\n' '[Service]' Type=exec User=games ExecStart=/usr/local/bin/server 'ExecStop=/bin/echo stop' \\
                StandardOutput=append:/var/log/app.log '[Install]' WantedBy=multi-user.target >/etc/systemd/system/app.service
        printf '%s\\n' '[Service]' 'ExecStart=/bin/sleep infinity' >/etc/systemd/system/idle.service
        systemctl daemon-reload
}
site() {
        data btrfs
        btrfs -q subvolume create /srv/app 2>/dev/null || btrfs subvolume create /srv/app >/dev/null
        application /srv/app 100
        server
        echo 1000 >/run/limit
        service app /srv/app Unit=idle.service Unit=app.service HealthDelaySec=0 "$@"
        systemctl start app
        holdpoint create app --json >/tmp/backup
        lose
}
# What is live has 10 rows, the backup 100.
lose() {
        sqlite3 -cmd '.timeout 5000' /srv/app/app.db 'delete from t where id > 10'
}
# How often the application started and stopped, and what it saw last.
seen() {
        tr -d '\\0' </var/log/app.log # a power cut leaves some
}
starts() {
        seen | grep -c ^start || true
}
stops() {
        seen | grep -c ^stop || true
}
last_start() {
        seen | grep ^start | tail -n1
}
nothing_left() {
        [[ ! -e /run/holdpoint-held ]] && ! find /run/systemd/system -name 'holdpoint-*.conf' | grep -q .
}
# running_on ROWS [STOPS]: what it runs on is what it started on, if it was stopped since there were that many stops.
running_on() {
        systemctl is-active --quiet app || fail "app is $(systemctl is-active app)"
        status 3 systemctl is-active --quiet idle
        [[ $(stops) == "${2-}" ]] || same "$(last_start)" "start $1" "what the application started on"
        same "$(rows /srv/app)" "$1" "rows"
        nothing_left || fail "left: $(find /run/systemd/system /run/holdpoint-held)"
}
newest() {
        holdpoint restores --json | jq -r ".restores[0].$1"
}
state_is() {
        [[ $(newest state) == "$1" ]]
}
"""

# A worker's step without systemd reading its files again.
STEPS = """
mkdir -p /etc/systemd/system/holdpoint-restore@.service.d
printf '[Service]\\nEnvironmentFile=-/run/step\\n' >/etc/systemd/system/holdpoint-restore@.service.d/step.conf
systemctl daemon-reload
at() {
        echo "HOLDPOINT_STEP=$1" >/run/step
}
stopped() {
        local pid

        for pid in $(pgrep -x holdpoint-worke); do
                if [[ $(ps -o stat= -p "$pid") == T* ]]; then
                        echo "$pid"
                        return
                fi
        done
        return 1
}
"""


def test_around_a_swap(guest):
    guest(SITE + STEPS + """
        site
        # Nothing but a swap touches them.
        first=$(systemctl show -P InvocationID app)
        mkdir /srv/out
        holdpoint create app
        holdpoint restore latest --into /srv/out
        holdpoint verify latest --depth restore
        holdpoint restore latest --dry-run --yes
        same "$(systemctl show -P InvocationID app) $(stops)" "$first 0" "the unit after all that swaps nothing"
        holdpoint delete latest --yes
        holdpoint restore latest --yes --json >/tmp/restore
        running_on 100
        same "$(stops) $(starts)" "1 2" "stops and starts"
        down=$(jq .units_down_usec /tmp/restore)
        ((down > $(jq .swap_usec /tmp/restore))) || fail "down for $down"
        same "$(newest units_down_usec)" "$down" "the time in the row"

        # People are told, at once and later.
        holdpoint restores | tee /tmp/table
        grep -Eq 'active +[0-9.]+ m?s +app' /tmp/table || fail "the time without the service is not in it"

        lose
        at exchanged=stop
        holdpoint rollback latest --yes --no-wait
        soon 30 stopped
        status 3 systemctl is-active --quiet app
        systemctl start app && fail "it could be started in the middle of a swap" || true
        same "$(starts)" 2 "starts"
        rm /run/step
        kill -CONT "$(stopped)"
        soon 30 nothing_left
        soon 30 state_is rolled_back
        running_on 10
        second=$(systemctl show -P InvocationID app)

        holdpoint confirm latest --yes
        same "$(systemctl show -P InvocationID app)" "$second" "confirm left the unit alone"

        holdpoint restore latest --yes >/tmp/words
        grep -Eq 'swap [0-9.]+ m?s, units down [0-9.]+ m?s$' /tmp/words || fail "$(cat /tmp/words)"
        systemctl stop app
        holdpoint restore latest --yes --json >/tmp/restore
        status 3 systemctl is-active --quiet app
        same "$(jq .units_down_usec /tmp/restore)" 0 "nothing was stopped"
        same "$(rows /srv/app)" 100 "rows"
        nothing_left
        """, seconds=240)


def test_what_does_not_come_up_goes_back(guest):
    guest(SITE + """
        site
        refused() {
                holdpoint "$@" >/tmp/out 2>/tmp/error && fail "$* did not fail" || true
        }
        # The unit itself does not stay up on the restored data.
        echo 50 >/run/limit
        sed -i s/HealthDelaySec=.*/HealthDelaySec=2/ /etc/holdpoint/services.d/app.conf
        refused restore latest --yes
        grep -q "app.service did not stay active.*is back" /tmp/error || fail "$(cat /tmp/error)"
        running_on 10
        same "$(newest state)" failed "the row"
        (($(newest units_down_usec) > 0))
        [[ $(newest error) == *"did not stay active"* ]] || fail "why: $(newest error)"
        same "$(find /srv/.holdpoint -maxdepth 1 -name 'restore.*' | wc -l)" 0 "trees"
        holdpoint restores | grep -q failed

        # A check does not succeed.
        echo 1000 >/run/limit
        sed -i s/HealthDelaySec=.*/HealthDelaySec=0/ /etc/holdpoint/services.d/app.conf
        printf '%s\\n' '[Service]' Type=oneshot 'ExecStart=/bin/test ! -e /run/sick' >/etc/systemd/system/check.service
        systemctl daemon-reload
        echo HealthCheckUnit=check.service >>/etc/holdpoint/services.d/app.conf
        touch /run/sick
        refused restore latest --yes
        grep -q "health check check.service.*is back" /tmp/error || fail "$(cat /tmp/error)"
        running_on 10
        same "$(newest state)" failed "the row"
        rm /run/sick
        holdpoint restore latest --yes
        running_on 100
        touch /run/sick
        refused rollback latest --yes
        grep -q "health check check.service.*is back" /tmp/error || fail "$(cat /tmp/error)"
        running_on 100
        same "$(newest state)" active "the row"
        rm /run/sick
        holdpoint rollback latest --yes
        running_on 10

        # Somebody else is in the data, seen from a namespace of its own.
        before=$(starts)
        unshare -m sh -c 'mount -t tmpfs none /mnt; exec 9</srv/app/files/1; exec sleep 1000' &
        soon 10 pgrep -fx 'sleep 1000'
        refused restore latest --yes
        grep -q "in use: process.*sleep.*files/1" /tmp/error || fail "$(cat /tmp/error)"
        running_on 10
        same "$(starts)" $((before + 1)) "starts"
        kill %1

        # One that does its work and ends is stopped at it, and not taken for one that did not stay up.
        printf '%s\\n' '[Service]' Type=oneshot 'ExecStart=/bin/sleep 1000' >/etc/systemd/system/idle.service
        systemctl daemon-reload
        systemctl start --no-block idle
        soon 20 sh -c 'systemctl is-active idle | grep -q activating'
        holdpoint restore latest --yes
        running_on 100
        same "$(starts)" $((before + 2)) "starts"
        printf '%s\\n' '[Service]' 'ExecStart=/bin/sleep infinity' >/etc/systemd/system/idle.service

        # One that is just being started anew is meant to run.
        mkdir /etc/systemd/system/app.service.d
        printf '%s\\n' '[Service]' 'ExecStop=/bin/sleep 5' >/etc/systemd/system/app.service.d/slow.conf
        systemctl daemon-reload
        systemctl restart --no-block app
        soon 5 sh -c 'systemctl is-active app | grep -qx deactivating'
        holdpoint rollback latest --yes
        running_on 10
        same "$(starts)" $((before + 3)) "starts"
        rm -r /etc/systemd/system/app.service.d

        # What systemd does not know, or what is no check.
        sed -i s/idle.service/gone.service/ /etc/holdpoint/services.d/app.conf
        refused restore latest --yes
        grep -q gone.service /tmp/error || fail "$(cat /tmp/error)"
        sed -i -e s/gone.service/idle.service/ -e s/=check.service/=idle.service/ /etc/holdpoint/services.d/app.conf
        refused restore latest --yes
        grep -q "idle.service is no oneshot" /tmp/error || fail "$(cat /tmp/error)"
        same "$(starts)" $((before + 3)) "starts"
        """, seconds=300)


@pytest.mark.parametrize("steps", ["units-held units-blocked unit-stopped@2 intent exchanged",
                                   "swapped settled units-let-go units-up watched units-released",
                                   "reverting unit-stopped@3 exchanged@2 settled@2 units-let-go@2 removed"],
                         ids=["down", "up", "back"])
def test_killed(guest, steps):
    """kill -9 of the worker at each step: what the agent does then, or a recovery by hand, ends with all of old or new."""
    guest(SITE + STEPS + """
        site
        printf '%%s\\n' '[Service]' Type=oneshot 'ExecStart=/bin/test ! -e /run/sick' >/etc/systemd/system/check.service
        echo HealthCheckUnit=check.service >>/etc/holdpoint/services.d/app.conf
        steps='%s'
        [[ $steps != reverting* ]] || touch /run/sick
        whole() {
                /usr/libexec/holdpoint/holdpoint-worker --recover && nothing_left && systemctl is-active --quiet app &&
                        holdpoint restores --json | jq -e '.restores[0].state | . == "active" or . == "failed"'
        }
        for step in $steps; do
                say "$step"
                before=$(stops)
                at "$step=kill"
                holdpoint restore latest --yes >/tmp/out 2>&1 && fail "it was not killed at $step" || true
                grep -q "without a result" /tmp/out || fail "at $step: $(cat /tmp/out)"
                rm /run/step
                soon 30 whole
                case $(newest state) in
                active) running_on 100 ;;
                failed) running_on 10 "$before" ;;
                esac
                say "$step: $(newest state)"
                if [[ -e /run/sick ]]; then
                        same "$(newest state)" failed "after $step"
                fi
                lose
        done
        """ % steps, seconds=400)


def test_power_cut_between_stop_and_start(guest):
    """The units start once the data is whole: early in boot, or later, when its file system comes late."""
    guest.keep_root()
    guest(SITE + STEPS + """
        site
        mkdir /srv/b
        application /srv/b 100
        echo Path=/srv/b >>/etc/holdpoint/services.d/app.conf
        sqlite3 -cmd '.timeout 5000' /srv/app/app.db "with recursive n(i) as (select 11 union all select i+1 from n where i<100)
                insert into t select i, 'x' from n"
        holdpoint create app
        systemctl enable --quiet app holdpointd
        mkdir /etc/systemd/system/app.service.d
        printf '[Service]\\nExecStartPre=!/bin/sh -c "echo 1000 >/run/limit"\\n' >/etc/systemd/system/app.service.d/limit.conf
        systemctl daemon-reload
        lose
        at exchanged=stop
        sync
        holdpoint restore latest --yes --no-wait
        soon 30 stopped
        cut_power
        """, seconds=240)
    guest(SITE + STEPS + """
        # /srv is not there yet: nothing could be recovered, so nothing may start.
        systemctl is-active --quiet app && fail "app runs" || true
        systemctl start app && fail "app could be started" || true
        same "$(starts)" 1 "starts"
        mkdir -p /srv
        mount /dev/ubdb /srv
        systemctl restart holdpointd
        soon 30 nothing_left
        soon 30 systemctl is-active --quiet app
        running_on 10
        same "$(rows /srv/b)" 100 "rows of the other path"
        soon 20 state_is failed

        printf '[Mount]\\nWhat=/dev/ubdb\\nWhere=/srv\\n[Install]\\nWantedBy=local-fs.target\\n' >/etc/systemd/system/srv.mount
        systemctl daemon-reload
        systemctl enable --quiet srv.mount
        at units-let-go=stop
        sync
        holdpoint restore latest --yes --no-wait
        soon 30 stopped
        cut_power
        """, seconds=240)
    guest(SITE + """
        systemctl is-active --quiet holdpoint-recover.service || fail "recovery failed"
        running_on 100
        soon 20 state_is active
        ran=$(systemctl show -P ActiveEnterTimestampMonotonic holdpoint-recover.service)
        app=$(systemctl show -P InactiveExitTimestampMonotonic app.service)
        ((ran > 0 && ran < app)) || fail "recovery did not run before the service: $ran, $app"
        """, seconds=240)
