"""What only a real systemd can show to `holdpoint doctor`: units, sandboxes, timers, a unit that does not start."""

LOOK = """
        # look STATUS: the report, and what is bad in it as CHECK:SUBJECT, sorted.
        look() {
                local got=0

                holdpoint doctor --json >/tmp/report || got=$?
                jq -r '.findings[] | select(.severity == "error" or .severity == "warning") | "\\(.check):\\(.subject)"' \\
                        /tmp/report | sort >/tmp/bad
                same "$got" "$1" "status with $(paste -sd' ' /tmp/bad)"
        }
        # bad LINE: it is there. good LINE: it is not.
        bad() {
                grep -qxF "$1" /tmp/bad || fail "not found: $1 in $(cat /tmp/bad)"
        }
        good() {
                ! grep -qxF "$1" /tmp/bad || fail "found: $1"
        }
        # edit UNIT LINE…: a drop-in, or none without lines.
        edit() {
                rm -rf "/run/systemd/system/$1.d/zz.conf"
                if (($# > 1)); then
                        mkdir -p "/run/systemd/system/$1.d"
                        printf '%s\\n' '[Service]' "${@:2}" >"/run/systemd/system/$1.d/zz.conf"
                fi
                systemctl daemon-reload
        }
        """


def test_doctor(guest):
    guest(LOOK + """
        data btrfs
        application /srv/app 10
        service app /srv/app Unit=app.service
        printf '[Service]\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/app.service
        systemctl daemon-reload
        systemctl enable --now holdpointd

        # As it is installed: nothing of ours is wrong, and the rest has to be done first.
        look 3
        same "$(paste -sd' ' /tmp/bad)" 'schedule:/etc/systemd/system service.backup:app' "findings"
        same "$(jq '[.findings[] | select(.check == "sandbox" and .severity == "ok")] | length' /tmp/report)" 6 sandboxes
        same "$(jq '[.findings[] | select(.check == "units" and .text == "listening")] | length' /tmp/report)" 5 sockets
        holdpoint create app
        holdpoint verify latest --depth restore
        holdpoint key export-recovery -o /tmp/key
        holdpoint key prove /tmp/key
        holdpoint schedule set nightly
        look 0

        holdpoint schedule set nightly --enabled no
        look 3
        bad service.schedule:app
        holdpoint schedule set nightly --enabled yes
        systemctl stop holdpoint@nightly.timer
        look 1
        bad schedule:nightly
        systemctl start holdpoint@nightly.timer
        mv /srv/app /srv/away
        status 1 systemctl start holdpoint@nightly.service
        mv /srv/away /srv/app
        look 1
        bad schedule.result:nightly
        systemctl start holdpoint@nightly.service
        look 3
        same "$(cat /tmp/bad)" jobs.backup:backup "a month with a bad day"
        """, seconds=300)


def test_what_an_administrator_may_break(guest):
    guest(LOOK + """
        data btrfs
        application /srv/app 10
        service app /srv/app
        systemctl enable --now holdpointd
        look 3

        edit holdpoint-backup@.service ReadWritePaths=/srv
        edit holdpoint-restore@.service ProtectSystem=strict CapabilityBoundingSet=~CAP_MKNOD
        look 1
        bad sandbox:holdpoint-backup@doctor.service
        bad sandbox:holdpoint-restore@doctor.service
        good sandbox:holdpoint-maintain@doctor.service
        edit holdpoint-backup@.service
        edit holdpoint-restore@.service CapabilityBoundingSet=~CAP_MKNOD
        look 1
        jq -e '.findings[] | select(.text == "lacks CAP_MKNOD")' /tmp/report
        edit holdpoint-restore@.service
        edit holdpoint-backup@.service DeviceAllow=
        edit holdpoint-image@.service KillMode=mixed
        look 1
        bad sandbox:holdpoint-backup@doctor.service
        bad sandbox:holdpoint-image@doctor.service
        good sandbox:holdpoint-restore@doctor.service
        jq -e '.findings[] | select(.text == "lacks DeviceAllow=block-* rw")' /tmp/report
        edit holdpoint-backup@.service BindPaths=/srv:/mnt
        edit holdpoint-image@.service
        look 1
        jq -e '.findings[] | select(.text | startswith("BindPaths=/srv /mnt "))' /tmp/report
        edit holdpoint-backup@.service
        mkdir -p /etc/holdpoint/holdpoint.conf.d
        printf '[Repository]\nPath=/srv/store\n' >/etc/holdpoint/holdpoint.conf.d/store.conf
        look 1
        bad sandbox:holdpoint-maintain@doctor.service
        bad sandbox:holdpoint-configure@doctor.service
        jq -e '.findings[] | select(.check == "sandbox") | select(.remedy | contains("daemon-reload"))' /tmp/report
        systemctl daemon-reload
        look 3
        printf '[Repository]\nPath=/var/tmp/store\n' >/etc/holdpoint/holdpoint.conf.d/store.conf
        systemctl daemon-reload
        look 1
        bad sandbox:holdpoint-backup@doctor.service
        rm /etc/holdpoint/holdpoint.conf.d/store.conf
        systemctl daemon-reload

        systemctl stop holdpoint-restore.socket
        look 1
        bad units:holdpoint-restore.socket
        systemctl start holdpoint-restore.socket
        systemctl disable -q holdpointd
        systemctl mask -q holdpoint-recover.service
        look 3
        bad units:holdpointd.service
        bad units:holdpoint-recover.service
        jq -r '.findings[] | select(.check == "units" and .severity == "warning") | .remedy' /tmp/report >/tmp/remedies
        grep -qx "run 'systemctl enable holdpointd.service'" /tmp/remedies
        grep -qx "run 'systemctl unmask holdpoint-recover.service'" /tmp/remedies
        systemctl enable -q holdpointd
        systemctl unmask -q holdpoint-recover.service
        truncate -s 0 /srv/swap
        chattr +C /srv/swap
        fallocate -l 16M /srv/swap
        chmod 600 /srv/swap
        mkswap -q /srv/swap
        swapon /srv/swap
        look 1
        bad service.swap:/srv/swap
        swapoff /srv/swap
        rm /srv/swap
        service app /srv/app Unit=nothing.service
        mkdir /tmp/data
        service temporary /tmp/data
        systemctl reload holdpointd
        look 1
        bad service.units:nothing.service
        bad service.path:/tmp/data
        jq -e '.findings[] | select(.check == "service.path") | select(.remedy | contains("PrivateTmp"))' /tmp/report
        rm /etc/holdpoint/services.d/temporary.conf
        service app /srv/app
        systemctl reload holdpointd
        look 3
        """, seconds=300)


def test_an_agent_that_does_not_start(guest):
    guest(LOOK + """
        data btrfs
        application /srv/app 10
        service app /srv/app Colour=blue
        systemctl start holdpointd && fail "it started" || true
        look 9
        bad agent:holdpointd
        bad units:holdpointd.service
        same "$(jq -r .worst /tmp/report)" error worst
        """, seconds=120)
