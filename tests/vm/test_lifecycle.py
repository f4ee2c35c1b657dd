"""Start, stop, reload, upgrade, death and removal of the agent, alone and while a job runs."""


def test_reload(guest):
    """A bad configuration makes the reload fail; the agent keeps the old one, workers refuse by file and line."""
    guest("""
        data btrfs
        application /srv/app
        service app /srv/app
        systemctl start holdpointd
        application /srv/other
        service other /srv/other
        systemctl reload holdpointd
        holdpoint create other
        echo nonsense >>/etc/holdpoint/services.d/app.conf
        status 1 systemctl reload holdpointd
        systemctl is-active --quiet holdpointd
        same "$(holdpoint list --json | jq .total)" 1 "backups, as the agent tells with its old configuration"
        status 1 holdpoint create other 2>&1 | grep -q 'app.conf:3'
        status 1 holdpointd --check-config
        """)


def test_watchdog(guest):
    """An agent that does not come round any more is replaced."""
    guest("""
        mkdir -p /etc/systemd/system/holdpointd.service.d
        printf '[Service]\\nWatchdogSec=3\\n' >/etc/systemd/system/holdpointd.service.d/watchdog.conf
        systemctl daemon-reload
        systemctl start holdpointd
        first=$(systemctl show -P MainPID holdpointd)
        kill -STOP "$first"
        another() { local p=$(systemctl show -P MainPID holdpointd); ((p > 0 && p != first)); }
        soon 30 another
        soon 20 manager GetStatus 'a{sv}' 0
        journalctl -u holdpointd | grep -q watchdog
        """)


def test_stop_in_a_backup(guest):
    """`systemctl stop`: the job ends at a safe point and is told as interrupted; nothing is left of it."""
    guest("""
        site
        pause backup sealed
        holdpoint create app --no-wait
        soon 30 stopped
        worker=$(stopped)
        systemctl stop holdpointd
        kill -0 "$worker" || fail "the worker died with the agent"
        kill -CONT "$worker"
        soon 30 gone
        unpause
        systemctl start holdpointd
        job_is backup interrupted
        same "$(holdpoint list --status completed --json | jq .total)" 1 "backups"
        holdpoint create app
        holdpoint verify latest
        """, seconds=240)


def test_kill_in_a_restore(guest):
    """kill -9 of the agent in the middle of a swap: the swap is whole, the next agent knows of it."""
    guest("""
        site
        sqlite3 /srv/app/app.db 'delete from t where id > 10'
        pause restore exchanged
        holdpoint restore latest --yes --no-wait
        soon 30 stopped
        worker=$(stopped)
        systemctl kill -s KILL --kill-whom=main holdpointd
        soon 20 manager GetStatus 'a{sv}' 0
        kill -0 "$worker" || fail "the worker died with the agent"
        kill -CONT "$worker"
        soon 30 gone
        unpause
        same "$(rows /srv/app)" 100 "rows after the swap"
        job_is restore interrupted
        soon 20 sh -c 'holdpoint restores --json | grep -q active'
        holdpoint rollback latest --yes
        same "$(rows /srv/app)" 10 "rows after the rollback"
        """, seconds=240)


def test_kill_of_the_worker(guest):
    """kill -9 of a worker: its job is interrupted, its locks are free, the target is as it was."""
    guest("""
        site
        sqlite3 /srv/app/app.db 'delete from t where id > 10'
        pause restore intent
        holdpoint restore latest --yes --no-wait
        soon 30 stopped
        kill -KILL "$(stopped)"
        soon 30 gone
        unpause
        job_is restore interrupted
        same "$(rows /srv/app)" 10 "rows"
        holdpoint restore latest --yes
        same "$(rows /srv/app)" 100 "rows after the next restore"
        """, seconds=240)


def test_watchdog_of_workers(guest):
    """One that hangs is ended, its job interrupted and its target whole; one that waits for a lock does not hang."""
    guest("""
        site
        for class in backup restore; do
                mkdir -p "/etc/systemd/system/holdpoint-$class@.service.d"
                printf '[Service]\\nWatchdogSec=3\\nTimeoutStopSec=2\\n' \\
                        >"/etc/systemd/system/holdpoint-$class@.service.d/watchdog.conf"
        done
        # hang: the worker that has stopped at its step does not even take a signal.
        hang() {
                soon 30 stopped
                echo 1 >"/sys/fs/cgroup$(cut -d: -f3 "/proc/$(stopped)/cgroup")/cgroup.freeze"
                soon 60 gone
        }
        pause backup sealed
        holdpoint create app --no-wait
        hang
        unpause
        journalctl -u 'holdpoint-backup@*' | grep -i watchdog
        job_is backup interrupted
        holdpoint create app

        sqlite3 /srv/app/app.db 'delete from t where id > 10'
        pause restore exchanged
        holdpoint restore latest --yes --no-wait
        hang
        unpause
        job_is restore interrupted
        soon 30 sh -c 'holdpoint restores --json | jq -e ".restores[0].state == \\"active\\""'
        same "$(rows /srv/app)" 100 "rows after a restore that hung"
        holdpoint rollback latest --yes

        # The lock of the repository is somebody else's for longer than the watchdog waits.
        flock /var/backups/holdpoint/backups sleep 8 &
        sleep 1
        holdpoint create app
        """, seconds=240)


def test_upgrade_in_a_job(guest):
    """All programs replaced while a backup runs, and while a restore does: ended in good order, and on it goes with the new ones."""
    guest("""
        site
        sqlite3 /srv/app/app.db 'delete from t where id > 10'
        echo '# mine' >>/etc/holdpoint/holdpoint.conf
        echo '# mine' >>/etc/holdpoint/services.d/main_service.conf.example
        cp -a /etc/holdpoint /tmp/mine
        # Other files of other contents under the same names, as a package manager does it.
        upgrade() {
                local program
                worker=$(stopped) old=$(systemctl show -P MainPID holdpointd)
                for program in /usr/bin/holdpoint /usr/sbin/holdpointd /usr/libexec/holdpoint/* \
                               /usr/lib/systemd/system-generators/holdpoint-generator; do
                        cp -p "$program" "$program.new"
                        echo newer >>"$program.new"
                        mv "$program.new" "$program"
                done
                /guest/finish share/doc/holdpoint/examples
                soon 20 manager GetStatus 'a{sv}' 0
                [[ $(readlink "/proc/$worker/exe") == *deleted* ]] || fail "the old worker is not the old program"
                new=$(systemctl show -P MainPID holdpointd)
                ((old != new)) || fail "the old agent still runs"
                cmp "/proc/$new/exe" /usr/sbin/holdpointd
                kill -CONT "$worker"
                soon 60 gone
                unpause
        }
        pause backup sealed
        holdpoint create app --no-wait
        soon 30 stopped
        upgrade
        job_is backup interrupted
        same "$(holdpoint list --status completed --json | jq .total)" 1 "backups"

        pause restore staged
        holdpoint restore latest --yes --no-wait
        soon 30 stopped
        upgrade
        job_is restore interrupted
        same "$(rows /srv/app)" 10 "rows: it was not swapped yet"
        same "$(ls -A /srv/.holdpoint | grep -c restore)" 0 "staged trees"

        pause restore exchanged
        holdpoint restore latest --yes --no-wait
        soon 30 stopped
        upgrade
        same "$(rows /srv/app)" 100 "rows: it was in its swap"
        state() { [[ $(holdpoint restores --json | jq -r '.restores[0].state') == "$1" ]]; }
        soon 60 state active # a second look, after ten seconds
        holdpoint rollback latest --yes
        same "$(rows /srv/app)" 10 "rows after the rollback, by the new worker"
        holdpoint create app
        holdpoint verify latest --depth data
        for file in holdpoint.conf services.d/main_service.conf.example services.d/app.conf; do
                cmp "/tmp/mine/$file" "/etc/holdpoint/$file"
        done
        """, seconds=300)


def test_install_and_uninstall(guest):
    """`./run install` and `./run uninstall` on the running system: what is left is what people made."""
    guest("""
        top=%s
        ln -s "$top/build" "$top/build/system" # compiled already
        "$top/run" install 2>&1 | tee /tmp/words
        grep -q 'systemctl enable --now holdpointd' /tmp/words
        data btrfs
        application /srv/app
        service app /srv/app
        systemctl enable --quiet --now holdpointd
        holdpoint create app
        holdpoint schedule set nightly --type app
        "$top/run" uninstall
        meson introspect "$top/build/system" --installed |
                /usr/bin/python3 -c 'import json, sys; print(*json.load(sys.stdin).values(), sep=chr(10))' >/tmp/installed
        (($(wc -l </tmp/installed) > 40)) || fail "what was installed: $(cat /tmp/installed)"
        while read -r path; do
                [[ ! -e $path && ! -L $path ]] || fail "$path is left"
        done </tmp/installed
        for path in /usr/libexec/holdpoint /usr/share/doc/holdpoint /etc/systemd/system/multi-user.target.wants/holdpointd.service; do
                [[ ! -e $path && ! -L $path ]] || fail "$path is left"
        done
        status 4 systemctl status holdpointd
        ! pgrep -x holdpointd || fail "the agent still runs"
        ! systemctl list-timers | grep holdpoint || fail "a schedule still runs"
        test -f /etc/holdpoint/services.d/app.conf -a -d /etc/holdpoint/keys -a -d /var/lib/holdpoint-worker
        test -n "$(ls /var/backups/holdpoint/backups)"
        id holdpoint
        "$top/run" install
        same "$(holdpoint list --json | jq .total)" 1 "backups after it came back"
        same "$(holdpoint schedule list --json | jq -r '.schedules[].schedule_name')" nightly "schedules after it came back"
        systemctl is-enabled holdpoint@nightly.timer
        """ % __import__("guest").TOP, seconds=400)
