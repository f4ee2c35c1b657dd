# shellcheck shell=bash
# What scripts in a guest begin with: sourced by every script of tests/vm, with "set -eu -o pipefail".

say() {
        printf '%s\n' "$*"
}

# Ends the script: the test has failed.
fail() {
        say "FAILED: $*"
        exit 1
}

# same GOT WANTED WHAT
same() {
        [[ $1 == "$2" ]] || fail "$3: '$1' instead of '$2'"
}

# status WANTED COMMAND…: the command must exit with exactly that.
status() {
        local wanted=$1 got=0

        shift
        "$@" || got=$?
        same "$got" "$wanted" "status of $*"
}

# soon SECONDS COMMAND…: polls until the command succeeds.
soon() {
        local end=$((SECONDS + $1))

        shift
        until "$@" >/dev/null 2>&1; do
                ((SECONDS <= end)) || fail "not in time: $*"
                sleep 0.1
        done
}

# data KIND [DEVICE [DIRECTORY]]: a new file system, by default /dev/ubdb on /srv.
data() {
        local kind=$1 device=${2-/dev/ubdb} directory=${3-/srv}

        case $kind in
        btrfs) mkfs.btrfs -q -f "$device" ;;
        ext4) mkfs.ext4 -q -F "$device" ;;
        xfs) mkfs.xfs -q -f "$device" ;;
        esac
        mkdir -p "$directory"
        mount "$device" "$directory"
}

# service NAME PATH [KEY=VALUE…]
service() {
        local name=$1 path=$2

        shift 2
        printf '%s\n' '[Service]' "Path=$path" "$@" >"/etc/holdpoint/services.d/$name.conf"
}

# application DIRECTORY [ROWS]: a database in WAL mode and some files, all of another user.
application() {
        local rows=${2-100}

        mkdir -p "$1/files"
        sqlite3 "$1/app.db" "pragma journal_mode=wal; create table t(id integer primary key, x text);
                with recursive n(i) as (select 1 union all select i+1 from n where i<$rows)
                insert into t select i, hex(randomblob(50)) from n" >/dev/null
        for i in 1 2 3 4 5; do
                head -c 20000 /dev/urandom >"$1/files/$i"
        done
        chown -R games:games "$1"
}

rows() {
        sqlite3 "$1/app.db" 'select count(*) from t'
}

# manager MEMBER [SIGNATURE ARGUMENT…]: a method of the agent.
manager() {
        busctl --timeout=60 call org.holdpoint.Backup1 /org/holdpoint/Backup1 org.holdpoint.Backup1.Manager "$@"
}

# Power goes: no service ends, nothing is written any more. The next boot is the test's.
cut_power() {
        touch /host/cut
        sleep 60
}

# shut_down: the machine is switched off in good order: services end, file systems are unmounted. The next boot is the test's.
shut_down() {
        mkdir -p /run/systemd/system/guest.service.d
        printf '[Service]\nExecStopPost=\n' >/run/systemd/system/guest.service.d/stays-up.conf
        systemctl daemon-reload
        echo 0 >/host/status
        systemctl --no-block poweroff
        sleep 600
}

# pause CLASS STEP: the next worker waits at a step (base/step.h) until it gets SIGCONT. unpause: no more.
pause() {
        mkdir -p "/etc/systemd/system/holdpoint-$1@.service.d"
        printf '[Service]\nEnvironment=HOLDPOINT_STEP=%s=stop\n' "$2" \
                >"/etc/systemd/system/holdpoint-$1@.service.d/step.conf"
        systemctl daemon-reload
}

unpause() {
        rm -r /etc/systemd/system/holdpoint-*@.service.d/step.conf
        systemctl daemon-reload
}

# The worker's process once it has stopped at its step.
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

# No worker is there.
gone() {
        ! systemctl --plain --no-legend list-units 'holdpoint-*@*.service' | grep -q .
}

# A first backup of an application on btrfs.
site() {
        data btrfs
        application /srv/app 100
        service app /srv/app
        systemctl enable --quiet --now holdpointd
        holdpoint create app
}

# job_is TYPE RESULT: of the newest job of that type.
job_is() {
        same "$(holdpoint jobs --json | jq -r "[.jobs[] | select(.type == \"$1\")][0].result")" "$2" "result of the $1"
}
