"""Schedules are timers: made over D-Bus, shown and changed by systemctl, run by systemd."""


def test_life_of_a_schedule(guest):
    """Set, shown, run, changed, switched off and deleted; nothing of ours is left behind."""
    guest("""
        data btrfs
        application /srv/app 100
        service app /srv/app
        holdpoint schedule set nightly --frequency daily --time 02:00 --retention-days 30 --type full --json >/tmp/set
        same "$(jq -r '.calendar, .retention_days, .backup_type, .enabled, .frequency, .time' /tmp/set | paste -sd' ')" \
                '*-*-* 02:00:00 30 full true daily 02:00' "what was set"
        [[ $(jq -r .next_run /tmp/set) == *T0*:0*Z ]] || fail "next run: $(jq -r .next_run /tmp/set)"
        systemctl cat holdpoint@nightly.timer | grep -q '^OnCalendar=\\*-\\*-\\* 02:00:00$'
        systemctl cat holdpoint@nightly.timer | grep -q '^RetentionDays=30$'
        systemctl is-enabled --quiet holdpoint@nightly.timer
        systemctl list-timers --all | grep -q 'holdpoint@nightly.timer *holdpoint@nightly.service'

        # For fleets: late by up to two minutes, and on one machine always by as much.
        same "$(systemctl show -P RandomizedDelayUSec -P FixedRandomDelay holdpoint@nightly.timer | paste -sd' ')" '2min yes' "delay"
        timers() {      # NAME PROPERTY: systemd's time, as ours are written
                local usec
                usec=$(busctl get-property org.freedesktop.systemd1 "/org/freedesktop/systemd1/unit/holdpoint_40$1_2etimer" \
                        org.freedesktop.systemd1.Timer "$2" | cut -d' ' -f2)
                date -u -d "@$((usec / 1000000))" +%FT%TZ
        }
        same "$(jq -r .next_run /tmp/set)" "$(timers nightly NextElapseUSecRealtime)" "next run"

        systemctl start holdpoint@nightly.service
        holdpoint list --json >/tmp/list
        same "$(jq -r .total /tmp/list)" 1 "backups"
        same "$(jq -r '.backups[0] | .created_by, .schedule, .status' /tmp/list | paste -sd' ')" \
                'schedule:nightly nightly completed' "the backup"
        [[ $(jq -r '.backups[0].backup_name' /tmp/list) =~ ^auto_nightly_[0-9]{8}_[0-9]{6}$ ]]
        soon 20 sh -c "holdpoint jobs --json | jq -e '.jobs[] | select(.type == \\"prune\\" and .result == \\"done\\")'"

        holdpoint schedule set nightly --calendar 'Mon..Fri 03:30' --retention-days 7
        holdpoint schedule show nightly --json >/tmp/show
        same "$(jq -r '.calendar, .retention_days, .backup_type, .frequency, .enabled' /tmp/show | paste -sd' ')" \
                'Mon..Fri *-*-* 03:30:00 7 full  true' "what was changed"
        holdpoint schedule set nightly --frequency monthly --time 04:15 --description 'by the month; # 50 %' --json >/tmp/set
        same "$(jq -r '.calendar, .frequency, .description' /tmp/set | paste -sd' ')" \
                '*-*-01 04:15:00 monthly by the month; # 50 %' "by the month"
        same "$(timers nightly NextElapseUSecRealtime | cut -c9-16)" 01T04:15 "systemd's idea of it"
        holdpoint schedule set nightly --enabled no
        status 1 systemctl is-enabled --quiet holdpoint@nightly.timer
        status 3 systemctl is-active --quiet holdpoint@nightly.timer
        same "$(holdpoint schedule list --json | jq -r '.schedules[0].enabled')" false enabled

        mkdir -p /etc/systemd/system/holdpoint@nightly.timer.d
        printf '[Timer]\\nOnCalendar=\\nOnCalendar=*-*-* 05:00\\n' >/etc/systemd/system/holdpoint@nightly.timer.d/override.conf
        systemctl daemon-reload
        same "$(holdpoint schedule show nightly --json | jq -r .calendar)" '*-*-* 05:00:00' "an operator's own calendar"

        holdpoint schedule set nightly --enabled yes
        holdpoint schedule delete nightly --yes
        # Only what the operator put there, which is theirs.
        same "$(find /etc/systemd/system /var/lib/systemd/timers -name '*nightly*' 2>/dev/null)" \
                /etc/systemd/system/holdpoint@nightly.timer.d "what is left"
        same "$(ls /etc/systemd/system/holdpoint@nightly.timer.d)" override.conf "drop-ins that are left"
        rm -r /etc/systemd/system/holdpoint@nightly.timer.d
        systemctl daemon-reload
        status 5 holdpoint schedule show nightly
        status 5 holdpoint schedule run nightly
        status 5 holdpoint schedule delete nightly --yes
        same "$(holdpoint schedule list --json | jq -c .schedules)" '[]' "schedules"
        systemctl list-timers --all | grep nightly && fail "the timer is still there" || true
        """, seconds=240)


def test_bad_schedules_change_nothing(guest):
    guest("""
        data btrfs
        application /srv/app 10
        service app /srv/app
        holdpoint schedule set good --calendar '*-*-* 04:00' --type app
        before=$(find /etc/systemd/system -type f -exec sha256sum {} + | sort)
        status 2 holdpoint schedule set good --calendar 'sometimes'
        status 2 holdpoint schedule set good --calendar '32:00'
        status 2 holdpoint schedule set good --frequency hourly
        status 2 holdpoint schedule set good --time 25:00
        status 2 holdpoint schedule set good --frequency daily --calendar '*-*-* 01:00'
        status 5 holdpoint schedule set good --type nonsense
        status 2 holdpoint schedule set good --retention-days 0
        status 2 holdpoint schedule set '../x'
        status 2 holdpoint schedule set 'Upper'
        status 2 holdpoint schedule set other --calendar 'sometimes'
        status 2 holdpoint schedule set other --calendar '*-02-30'
        status 2 holdpoint schedule set good --calendar '2020-01-01' 2>/tmp/error
        grep -q 'never comes' /tmp/error || fail "$(cat /tmp/error)"
        systemctl is-active --quiet holdpoint@good.timer
        same "$(systemctl show -P NextElapseUSecRealtime holdpoint@good.timer | grep -c 04:)" 1 "timers of before"
        same "$(ls /etc/systemd/system/timers.target.wants | grep holdpoint@)" holdpoint@good.timer "enabled timers"
        # What cannot be enabled is not there.
        mkdir /etc/systemd/system/timers.target.wants/holdpoint@blocked.timer
        status 1 holdpoint schedule set blocked --time 01:00
        rmdir /etc/systemd/system/timers.target.wants/holdpoint@blocked.timer
        same "$(find /etc/systemd/system -type f -exec sha256sum {} + | sort)" "$before" "unit files"
        same "$(holdpoint schedule show good --json | jq -r .calendar)" '*-*-* 04:00:00' calendar
        same "$(holdpoint schedule list --json | jq '.schedules | length')" 1 schedules

        printf '[X-Holdpoint]\\nNonsense=1\\n' >/etc/systemd/system/holdpoint@good.timer.d/50-holdpoint.conf
        holdpoint schedule run good 2>/tmp/error && fail "a broken schedule ran" || true
        grep -q '50-holdpoint.conf:2:' /tmp/error || fail "$(cat /tmp/error)"
        # Another one is changed all the same, and that is said.
        status 1 holdpoint schedule set next --time 01:00 2>/tmp/error
        grep -q "'next' is set.*50-holdpoint.conf:2:" /tmp/error || fail "$(cat /tmp/error)"
        # How long its backups are kept is not guessed.
        status 2 holdpoint schedule set good --type app
        holdpoint schedule set good --type app --retention-days 400
        holdpoint schedule run good
        systemctl is-enabled --quiet holdpoint@next.timer
        """, seconds=240)


def test_killed_half_way(guest):
    """What is asked for again is made as if for the first time, enabled and running; by the agent, too."""
    guest("""
        data btrfs
        application /srv/app 10
        service app /srv/app
        step() {
                mkdir -p /etc/systemd/system/holdpoint-configure@.service.d
                printf '[Service]\nEnvironment=HOLDPOINT_STEP=%s\n' "${1-}" >/etc/systemd/system/holdpoint-configure@.service.d/step.conf
                systemctl daemon-reload
        }
        printf '%s\n' AUTO_BACKUP_ENABLED=true AUTO_BACKUP_TIME=04:30 >/etc/default/holdpoint
        step schedule-written=kill
        status 1 holdpoint schedule set nightly --time 03:00
        soon 20 test -e /etc/systemd/system/holdpoint@default.timer.d/50-holdpoint.conf
        step
        holdpoint schedule set nightly --time 03:00 --json | jq -e '.enabled and .next_run != ""'
        systemctl restart holdpointd
        soon 20 systemctl is-active --quiet holdpoint@default.timer
        systemctl is-enabled --quiet holdpoint@default.timer

        # Switched, but not noted down: not taken for what somebody has done by hand.
        step schedule-switched=kill
        sed -i s/true/false/ /etc/default/holdpoint
        systemctl reload holdpointd
        soon 20 sh -c '! systemctl is-enabled --quiet holdpoint@default.timer'
        soon 20 grep -qx Origin=defaults /etc/systemd/system/holdpoint@default.timer.d/50-holdpoint.conf
        step
        sed -i s/false/true/ /etc/default/holdpoint
        systemctl reload holdpointd
        soon 20 systemctl is-active --quiet holdpoint@default.timer
        """, seconds=240)


def test_timers_run_and_tell(guest):
    """A timer that elapses makes a backup; a run that fails makes its unit fail."""
    guest("""
        data btrfs
        application /srv/app 10
        service app /srv/app
        holdpoint schedule set often --calendar '*-*-* *:*:00/5' --type app
        mkdir -p /run/systemd/system/holdpoint@often.timer.d
        printf '[Timer]\\nRandomizedDelaySec=0\\n' >/run/systemd/system/holdpoint@often.timer.d/now.conf
        systemctl daemon-reload
        systemctl restart holdpoint@often.timer
        soon 40 sh -c "holdpoint list --status completed --json | jq -e '.total > 0'"
        soon 20 sh -c "holdpoint schedule show often --json | jq -e '.last_run != \\"\\" and .last_result == \\"success\\"'"
        systemctl stop holdpoint@often.timer
        usec=$(busctl get-property org.freedesktop.systemd1 /org/freedesktop/systemd1/unit/holdpoint_40often_2etimer \
                org.freedesktop.systemd1.Timer LastTriggerUSec | cut -d' ' -f2)
        soon 20 sh -c '! systemctl is-active --quiet holdpoint@often.service'
        same "$(holdpoint schedule show often --json | jq -r .last_run)" "$(date -u -d "@$((usec / 1000000))" +%FT%TZ)" "last run"

        # Whoever waits for failures hears of a run that failed, and of one that is partial.
        printf '[Service]\nExecStart=/bin/sh -c "echo >>/tmp/told"\n' >/run/systemd/system/told.service
        mkdir -p /run/systemd/system/holdpoint@often.service.d
        printf '[Unit]\nOnFailure=told.service\n' >/run/systemd/system/holdpoint@often.service.d/told.conf
        systemctl daemon-reload
        told() { [[ $(wc -l 2>/dev/null </tmp/told) == "$1" ]]; }
        mv /srv/app /srv/gone
        status 1 systemctl start holdpoint@often.service
        soon 10 told 1
        systemctl --failed | grep -q holdpoint@often.service
        same "$(holdpoint schedule show often --json | jq -r .last_result)" exit-code "result"
        mkdir /srv/other
        service other /srv/other
        systemctl reload holdpointd
        holdpoint schedule set often --type full --enabled no
        status 1 systemctl start holdpoint@often.service
        soon 10 told 2
        same "$(systemctl show -P ExecMainStatus holdpoint@often.service)" 3 "status of a partial run"
        same "$(holdpoint list --json --limit 1 | jq -r '.backups[0].status')" partial "the backup"
        """, seconds=240)


def test_a_missed_run_is_caught_up(guest):
    guest.keep_root()
    guest("""
        data btrfs
        application /srv/app 10
        service app /srv/app
        holdpoint schedule set nightly --type app
        systemctl stop holdpoint@nightly.timer
        touch -d '3 days ago' /var/lib/systemd/timers/stamp-holdpoint@nightly.timer
        sync
        """)
    guest("""
        mkdir -p /srv
        mount /dev/ubdb /srv
        mkdir -p /run/systemd/system/holdpoint@nightly.timer.d
        printf '[Timer]\\nRandomizedDelaySec=0\\n' >/run/systemd/system/holdpoint@nightly.timer.d/now.conf
        systemctl daemon-reload
        systemctl restart holdpoint@nightly.timer
        soon 40 sh -c "holdpoint list --status completed --json | jq -e '.total > 0'"
        """, seconds=180)


def test_clock_set_back(guest):
    """A day back beneath agent and timers: runs come by the new clock, the newest backup is the one made last, none goes."""
    guest("""
        data btrfs
        application /srv/app 100
        service app /srv/app
        systemctl enable --quiet --now holdpointd
        mkdir -p /run/systemd/system/holdpoint@daily.timer.d
        printf '[Timer]\nRandomizedDelaySec=0\n' >/run/systemd/system/holdpoint@daily.timer.d/now.conf
        systemctl daemon-reload
        total() { [[ $(holdpoint list --status completed --json | jq .total) == "$1" ]]; }
        next() { [[ $(holdpoint schedule show daily --json | jq -r .next_run) == "$(date -u -d "$1" +%FT%TZ)" ]]; }
        today=$(date +%F)
        yesterday=$(date -d "$today -1 day" +%F) tomorrow=$(date -d "$today +1 day" +%F)
        date -s "$today 12:00:00"
        holdpoint schedule set daily --calendar '*-*-* 12:10:00' --type app
        date -s "$today 12:09:58"
        soon 60 total 1
        soon 20 next "$tomorrow 12:10:00"

        date -s "$yesterday 12:05:00"
        soon 20 next "$yesterday 12:10:00"
        sqlite3 /srv/app/app.db 'delete from t where id > 40'
        date -s "$yesterday 12:09:58"
        soon 60 total 2
        sqlite3 /srv/app/app.db 'delete from t where id > 10'
        holdpoint restore latest --yes
        same "$(rows /srv/app)" 40 "rows: the newest backup is the one that was made last"
        holdpoint rollback latest --yes
        same "$(rows /srv/app)" 10 "rows after the rollback"
        holdpoint prune --yes
        same "$(holdpoint list --json --status completed | jq .total)" 2 "backups after a prune"
        holdpoint status

        # And right again.
        date -s "$today 12:30:00"
        soon 20 next "$tomorrow 12:10:00"
        soon 60 total 3 # the run of today, which is missed by the clock that is right
        holdpoint verify latest --depth data
        """, seconds=240)


def test_settings_by_environment(guest):
    """/etc/default/holdpoint sets up `default`, until somebody sets it otherwise; root's eyes alone are enough."""
    guest("""
        data btrfs
        application /srv/app 10
        service app /srv/app
        printf '%s\\n' AUTO_BACKUP_ENABLED=true AUTO_BACKUP_FREQUENCY=weekly AUTO_BACKUP_TIME=04:30 AUTO_BACKUP_TYPE=app \
                BACKUP_RETENTION_DAYS=14 BACKUP_ENCRYPTION_KEY=correct-horse >/etc/default/holdpoint
        chmod 0600 /etc/default/holdpoint
        systemctl start holdpointd
        soon 20 systemctl is-enabled --quiet holdpoint@default.timer
        show() {
                holdpoint schedule show default --json | jq -r '.calendar, .backup_type, .retention_days' | paste -sd' '
        }
        same "$(show)" 'Mon *-*-* 04:30:00 app 14' "the schedule"
        said() { sed -i "$1" /etc/default/holdpoint; systemctl reload holdpointd; }
        shows() { [[ $(show) == "$1" ]]; }
        said 's/04:30/05:30/; s/DAYS=14/DAYS=21/'
        soon 20 shows 'Mon *-*-* 05:30:00 app 21'
        said s/DAYS=21/DAYS=14/                # alone, it counts, too
        soon 20 shows 'Mon *-*-* 05:30:00 app 14'
        off() { ! systemctl is-enabled --quiet holdpoint@default.timer && ! systemctl is-active --quiet holdpoint@default.timer; }
        on() { systemctl is-enabled --quiet holdpoint@default.timer && systemctl is-active --quiet holdpoint@default.timer; }
        said s/ENABLED=true/ENABLED=false/
        soon 20 off
        said s/ENABLED=false/ENABLED=true/
        soon 20 on

        # What an operator does is theirs: first systemctl, then "schedule set".
        told() { journalctl -q -o cat | grep -c "was $1 by hand and stays" || true; }
        told_again() { (($(told "$1") > $2)); }
        stays() {       # HOW CHANGE
                local before
                before=$(told "$1")
                said "$2"
                soon 20 told_again "$1" "$before"
        }
        systemctl disable -q --now holdpoint@default.timer
        stays disabled s/05:30/05:45/
        off || fail "a timer that was switched off is on"
        same "$(show)" 'Mon *-*-* 05:30:00 app 14' "a schedule that was switched off"
        systemctl enable -q --now holdpoint@default.timer
        systemctl reload holdpointd            # as it was left: followed again
        soon 20 shows 'Mon *-*-* 05:45:00 app 14'
        holdpoint schedule set default --time 06:00
        stays set s/05:45/05:50/
        same "$(show)" 'Mon *-*-* 06:00:00 app 14' "a schedule that was set by hand"
        holdpoint schedule delete default --yes
        systemctl reload holdpointd            # deleted, it comes back as the file says
        soon 20 shows 'Mon *-*-* 05:50:00 app 14'
        """, seconds=240)
