"""Snapshots in LVM: classic and thin, under ext4 and XFS, while the service writes; and what goes wrong with them.

A guest is slow at LVM's commands (one lvcreate takes a second or more), so holds may last longer here.
"""

import os

import guest as guests
import pytest

SECONDS = 600 # of a machine that has more to do; alone each takes less than a minute
LIB = os.path.join(guests.TOP, "tests", "lib")

LVM = r"""
modprobe -a dm_snapshot dm_thin_pool
mkdir -p /etc/holdpoint/holdpoint.conf.d
printf '[Hold]\nLockTimeoutMSec=10000\nMaxHoldMSec=60000\n' >/etc/holdpoint/holdpoint.conf.d/slow.conf

# group [NAME]: a volume group on /dev/ubdb
group() {
        pvcreate -q /dev/ubdb >/dev/null
        vgcreate -q "${1-vg-a}" /dev/ubdb >/dev/null
}

# classic NAME SIZE, thin NAME SIZE (in the pool "pool"): a volume of vg-a
classic() {
        lvcreate -q -y -L "$2" -n "$1" vg-a >/dev/null
}
thin() {
        lvcreate -q -y -V "$2" -T vg-a/pool -n "$1" >/dev/null 2>&1
}
pool() {
        lvcreate -q -y -L "$1" -T vg-a/pool >/dev/null 2>&1
}

# step NAME=ACTION: workers of the class backup do that at that step; without an argument nothing any more
step() {
        local conf=/etc/systemd/system/holdpoint-backup@.service.d/step.conf

        mkdir -p "${conf%/*}"
        printf '[Service]\nEnvironment=HOLDPOINT_STEP=%s\n' "${1-}" >$conf
        systemctl daemon-reload
}

# ours: the volumes that have Holdpoint's tag
ours() {
        lvs --noheadings -o lv_name @holdpoint | tr -d ' '
}

# clean: no classic snapshot is left, no device of one, and nothing mounted
clean() {
        same "$(lvs --noheadings -o lv_name -S 'lv_role=thicksnapshot' | tr -d ' ')" "" "snapshots that are left"
        ! dmsetup ls | grep holdpoint || fail "devices that are left"
}

# volumes: all but hot copies, which may have to make room
volumes() {
        lvs --noheadings -o vg_name,lv_name,lv_uuid | grep -v holdpoint | tr -s " " | sort
}

# refused ERROR WORDS SERVICE: a backup fails with that error, names it, and leaves nothing
refused() {
        local before
        before=$(volumes)
        status 1 holdpoint create "$3" 2>/tmp/error
        cat /tmp/error
        grep -q "$2" /tmp/error || fail "no '$2' in it"
        manager ListJobs 'a{sv}' 0 | grep -q "\"error_name\" s \"[^\"]*$1\"" || fail "no $1"
        same "$(volumes)" "$before" "volumes"
        clean
}

# doctor: a report; finding SEVERITY WORDS SERVICE: what it says of the snapshots of a service
doctor() {
        holdpoint doctor --json >/tmp/report || true
}
finding() {
        jq -e --arg severity "$1" --arg words "$2" --arg service "$3" \
                '[.findings[] | select(.check == "service.snapshot" and .service == $service)] |
                 length == 1 and .[0].severity == $severity and (.[0].text | contains($words))' /tmp/report >/dev/null ||
                fail "no $1 '$2' of $3 in $(jq -c '.findings[] | select(.check == "service.snapshot")' /tmp/report)"
}
"""


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_backup_and_restore(guest, kind):
    """Two volumes in one point, a backup of what changed, exchange and rollback, the thin one's hot copy."""
    guest(LVM + """
        group
        classic data-1 400M
        pool 600M
        thin thin.2 400M
        data %s /dev/vg-a/data-1 /srv
        data %s /dev/vg-a/thin.2 /thin
        application /srv/app 200
        application /thin/app 300
        service one /srv/app
        service two /thin/app
        udevadm trigger --settle --subsystem-match=block --action=add
        step sealed=stop
        holdpoint create full --json >/tmp/backup &
        job=$!
        soon 120 stopped
        # There are two of its uuid now.
        udevadm settle
        by_uuid=/dev/disk/by-uuid/$(blkid -s UUID -o value /dev/vg-a/thin.2)
        same "$(readlink -f "$by_uuid")" "$(readlink -f /dev/vg-a/thin.2)" "what is mounted by uuid"
        step
        kill -CONT "$(stopped)"
        wait $job
        jq -e '.status == "completed" and .consistency == "application" and
               .service_consistency == {one: "application", two: "application"} and
               .copies == ["local"]' /tmp/backup
        # Two made; the classic one removed; the thin one activated, and kept inactive and read-only: told by the helper, of this job.
        journalctl --sync
        job=$(holdpoint jobs --json | jq '[.jobs[] | select(.type == "backup")][0].id')
        told() { journalctl -o cat HOLDPOINT_JOB="$job" HOLDPOINT_BACKUP="$(jq -r .backup_id /tmp/backup)" SYSLOG_IDENTIFIER=holdpoint-lvm; }
        same "$(told | grep -o "^'[a-z]* -*[a-z]*.* done by LVM in [0-9]* us$" | cut -d"'" -f2 | cut -d' ' -f1,2 | sort | paste -sd,)" \
                "lvchange -an,lvchange -ay,lvchange -pr,lvcreate -s,lvcreate -s,lvremove -f" "what LVM has done"
        clean
        same "$(ours | wc -l)" 1 "hot copies of the thin volume"
        same "$(lvs --noheadings -o lv_attr @holdpoint | tr -d ' ' | cut -c1,2,5,10)" 'Vr-k' "a thin, read-only, inactive one to be skipped"
        sleep 0.1
        echo new >/srv/app/files/new
        holdpoint create one --json >/tmp/second
        jq -e '.status == "completed"' /tmp/second
        [[ $(jq .new_bytes /tmp/second) -lt 20000 ]] || fail "all was read again"
        holdpoint verify latest
        clean
        for app in /srv/app /thin/app; do
                sqlite3 $app/app.db 'delete from t where id > 10'
                rm $app/files/3
        done
        before=$(cd /thin/app/files && sha256sum 1 2 4 5)
        first=$(jq -r .backup_id /tmp/backup)
        holdpoint restore "$first" --service two --from hot --yes
        same "$(rows /thin/app)" 300 "rows after a restore from the hot copy"
        same "$(cd /thin/app/files && sha256sum 1 2 4 5)" "$before" "files after it"
        clean
        holdpoint restore "$first" --service one --yes
        same "$(rows /srv/app)" 200 "rows after a restore from the repository"
        holdpoint rollback latest --yes
        same "$(rows /srv/app)" 10 "rows after the rollback"
        holdpoint rollback latest --yes
        same "$(rows /srv/app)" 200 "rows after the second rollback"
        holdpoint confirm latest --yes
        # A hot copy that somebody wrote to is none.
        lvchange -q -prw "vg-a/$(ours)" >/dev/null
        status 1 holdpoint restore "$first" --service two --from hot --yes
        holdpoint restore "$first" --service two --yes --json | jq -e '.result == "done"'
        same "$(rows /thin/app)" 300 "rows from the repository instead"
        lvchange -q -pr "vg-a/$(ours)" >/dev/null
        holdpoint delete "$first" --yes
        holdpoint create one --json | jq -e '.status == "completed"'
        same "$(ours)" "" "the hot copy of a deleted backup"
        """ % (kind, kind), seconds=SECONDS)


def test_one_instant(guest):
    """Writers at full speed in classic and thin volumes; hot copies are judged with the rest, and a snapshot grows meanwhile.

    Without the hold the same harness must see a torn point.
    """
    result = guest(LVM + """
        group
        classic one 300M
        pool 700M
        thin two 320M
        classic three 320M
        thin four 300M
        data ext4 /dev/vg-a/one /srv/one
        data xfs /dev/vg-a/two /srv/two
        data xfs /dev/vg-a/three /srv/three
        data ext4 /dev/vg-a/four /srv/four
        for name in one two three four; do
                mkdir /srv/$name/store
                service $name /srv/$name/store
        done
        cat >/tmp/points.py <<'END'
import json, os, shutil, subprocess, sys
sys.path.insert(0, "%s")
import stores
NAMES = ["one", "two", "three", "four"]
made = [stores.Store(name, "/srv/%%s/store" %% name, 33 + i, "delete" if i == 1 else "wal").create() for i, name in enumerate(NAMES)]
def point():
    return json.loads(subprocess.run(["holdpoint", "create", "full", "--json"], check=True, stdout=subprocess.PIPE).stdout)
def restored(backup, copy, *options):
    subprocess.run(["holdpoint", "restore", backup["backup_id"], "--into", "/tmp/" + copy, "--from", copy, *options], check=True,
                   stdout=subprocess.DEVNULL)
def at(s, copy):
    return s.at("/tmp/%%s/%%s%%s" %% (copy, s.name, s.root))
def judge(backup, hot):
    for copy in ("local", "hot"):
        os.mkdir("/tmp/" + copy)
    restored(backup, "local")
    found = [[at(s, "local") for s in made]]
    if hot:
        for name in ("two", "four"):
            restored(backup, "hot", "--service", name)
        found.append([at(s, "hot" if s.name in ("two", "four") else "local") for s in made])
    torn = next((t for t in (stores.judge([s.state() for s in f]) for f in found) if t), None)
    torn = torn or next((d for f in found for s in f for d in s.disagreements()), None)
    for copy in ("local", "hot"):
        shutil.rmtree("/tmp/" + copy)
    return torn
with stores.Ring(made, busy_msec=60000) as ring:
    for n in range(int(sys.argv[1])):
        before = ring.rounds()
        backup = point()
        torn = judge(backup, sys.argv[2] == "whole")
        print("point", n, backup["consistency"], "pause %%.0f ms," %% (backup["pause_usec"] / 1000), ring.rounds() - before, "rounds", torn, flush=True)
        assert ring.rounds() > before, "nobody wrote"
        if sys.argv[2] == "torn":
            if torn:
                break
        else:
            assert torn is None and backup["consistency"] == "application", backup
    else:
        assert sys.argv[2] != "torn", "all whole without the hold"
    ring.stop()
END
        # While the first is read, more is written beside the stores than its snapshot has room for at first.
        step point-taken=stop,stored=stop
        (
                soon 300 stopped
                dd if=/dev/urandom of=/srv/one/load bs=1M count=52 conv=fsync status=none
                kill -CONT "$(stopped)"
                soon 300 stopped
                step
                kill -CONT "$(stopped)"
        ) &
        /usr/bin/python3 /tmp/points.py 2 whole
        wait
        journalctl --sync
        journalctl -o cat SYSLOG_IDENTIFIER=holdpoint-lvm | grep -q "^'lvextend .*: done by LVM" || fail "no snapshot was extended"
        clean
        mkdir -p /etc/systemd/system/holdpoint-backup@.service.d
        printf '[Service]\\nEnvironment=HOLDPOINT_TEST_NO_HOLD=1\\n' >/etc/systemd/system/holdpoint-backup@.service.d/hold.conf
        systemctl daemon-reload
        /usr/bin/python3 /tmp/points.py 5 torn
        """ % LIB, seconds=SECONDS)
    print(result.output)


def test_overflow_and_growth(guest):
    """A snapshot that fills up is made larger while there is room; without room the job fails, and nothing is left.

    Nor does the machine panic where its file system is made to.
    """
    guest(LVM + """
        group
        classic data 600M
        data ext4 /dev/vg-a/data /srv
        tune2fs -e panic /dev/vg-a/data >/dev/null
        application /srv/app
        service app /srv/app
        write() { dd if=/dev/urandom of=/srv/load bs=1M count="$1" conv=fsync status=none; }
        write 250
        # Stopped twice: the watch runs between the two stops.
        step point-taken=stop,stored=stop
        holdpoint create app --json >/tmp/backup 2>/tmp/error &
        job=$!
        soon 120 stopped
        same "$(lvs --noheadings --units m --nosuffix -o lv_size @holdpoint | tr -d ' ')" 120.00 "size of the snapshot"
        write 100
        kill -CONT "$(stopped)"
        soon 120 stopped
        same "$(lvs --noheadings --units m --nosuffix -o lv_size @holdpoint | tr -d ' ')" 240.00 "size of the extended snapshot"
        kill -CONT "$(stopped)"
        wait $job
        jq -e '.status == "completed" and .consistency == "application"' /tmp/backup
        clean
        # What is left of the volume group goes to another volume, but for 100 MiB.
        free=$(vgs --noheadings --units m --nosuffix -o vg_free vg-a | tr -d ' ')
        classic other "$((${free%%.*} - 100))M"
        step point-taken=stop
        holdpoint create app >/dev/null 2>/tmp/error &
        job=$!
        soon 120 stopped
        write 220
        kill -CONT "$(stopped)"
        status 1 wait $job
        cat /tmp/error
        grep -q overflowed /tmp/error
        manager ListJobs 'a{sv}' 0 | grep -q '"error_name" s "[^"]*SnapshotFull"'
        same "$(ours)" "" "snapshots that are left"
        clean
        # The same after the last byte was read, when no error comes any more.
        step all-read=stop
        holdpoint create app >/dev/null 2>/tmp/error &
        job=$!
        soon 120 stopped
        write 220
        kill -CONT "$(stopped)"
        status 1 wait $job
        cat /tmp/error
        grep -q overflowed /tmp/error
        clean
        same "$(holdpoint list --json --status completed | jq .total)" 1 "completed backups"
        step
        holdpoint create app --json | jq -e '.status == "completed"'
        """, seconds=SECONDS)


def test_leftovers(guest):
    """What a killed worker leaves goes with the next backup or soon by itself, known by its tags; a name alone is nothing.

    Nothing is known of a group that no service uses: it may be another machine's.
    """
    guest.disks.append(guest.disk("second"))
    guest(LVM + """
        group
        classic data 400M
        pvcreate -q /dev/ubdc >/dev/null
        vgcreate -q vg-z /dev/ubdc >/dev/null
        lvcreate -q -y -L 64M -n data vg-z >/dev/null
        lvcreate -q -y -s -L 32M -n theirs --addtag holdpoint --addtag holdpoint.hot.00000000-0000-4000-8000-000000000001.0 vg-z/data >/dev/null
        data ext4 /dev/vg-a/data /srv
        application /srv/app
        service app /srv/app
        id=00000000-0000-4000-8000-000000000000
        lvcreate -q -y -s -L 32M -n "holdpoint-hot.$id.0" vg-a/data >/dev/null
        lvcreate -q -y -s -L 32M -n keep-me --addtag holdpointed --addtag holdpoint.x vg-a/data >/dev/null
        step point-taken=kill
        status 1 holdpoint create app
        same "$(ours | wc -l)" 2 "snapshots that the killed worker left"
        step held=kill
        status 1 holdpoint create app
        same "$(ours)" "theirs" "snapshots after the next run"
        # Nor do they wait for one: the agent asks for the sweep.
        step point-taken=kill
        status 1 holdpoint create app
        step
        swept() { [[ $(ours) == theirs ]]; }
        soon 120 swept
        settled() { [[ $(holdpoint jobs --json | jq -r '[.jobs[] | select(.type == "reconcile")][0].result') == "done" ]]; }
        soon 60 settled
        lvs "vg-a/holdpoint-hot.$id.0" vg-a/keep-me
        lvs vg-z/theirs
        lvremove -q -y vg-z >/dev/null
        # A job that ends while LVM works, in whatever way: LVM's command is whole all the same.
        by_death() { kill -KILL "$(pgrep -x holdpoint-worke | tail -n 1)"; }
        by_unit() { systemctl stop 'holdpoint-backup@*.service'; }
        by_agent() { systemctl stop holdpointd; }
        by_cancel() { holdpoint cancel "$(holdpoint jobs --json | jq '[.jobs[] | select(.type == "backup")][0].id')"; }
        active() { [[ $(dmsetup info -c --noheadings -o suspended | sort -u) == Active ]]; }
        for way in death unit agent cancel; do
                holdpoint create app >/dev/null 2>&1 &
                job=$!
                soon 120 sh -c 'ls /dev/mapper/*holdpoint--hot*-cow | grep -v 00000000'
                by_$way
                ! wait $job || fail "$way: it went on"
                soon 120 sh -c '! pgrep -x holdpoint-lvm'
                soon 60 active
                same "$(lvs --noheadings -o lv_attr @holdpoint | tr -d ' ' | grep -v '^swi-a-s---$')" "" "$way: what LVM made, if it is still there"
                timeout 20 touch /srv/app/files/after
        done
        holdpoint create app --json | jq -e '.status == "completed"'
        same "$(ours)" "" "snapshots that are left"
        same "$(pgrep -c holdpoint-lvm || true)" 0 "helpers that are left"
        """, seconds=SECONDS)


def test_refused(guest):
    """What cannot be done is said by name, by the doctor too, and leaves nothing: pool, udev, no volume; a renamed group is no trouble."""
    guest(LVM + """
        group
        pool 100M
        thin data 80M
        data ext4 /dev/vg-a/data /srv
        application /srv/app
        service app /srv/app Snapshot=lvm
        mkdir -p /var/plain
        service plain /var/plain Snapshot=lvm
        # The pool: what Holdpoint itself keeps there goes first.
        head -c 30M /dev/urandom >/srv/load
        holdpoint create app --json | jq -e '(.copies | sort) == ["hot", "local"]'
        rm /srv/load
        sync
        fstrim /srv
        thin load 120M
        dd if=/dev/zero of=/dev/vg-a/load bs=1M count=45 conv=fsync status=none
        holdpoint create app --json | jq -e '.status == "completed" and (.copies | sort) == ["hot", "local"]'
        same "$(ours | wc -l)" 1 "hot copies"
        # It fills up while the backup is read: the job ends, and its image goes.
        used() { dmsetup status vg--a-pool-tpool | awk '{ split($6, n, "/"); print int(100 * n[1] / n[2]) }'; }
        step point-taken=stop
        holdpoint create app >/dev/null 2>/tmp/error &
        job=$!
        soon 120 stopped
        for ((n = 45; $(used) < 96; n++)); do
                dd if=/dev/zero of=/dev/vg-a/load bs=1M seek=$n count=1 conv=fsync,notrunc status=none
        done
        kill -CONT "$(stopped)"
        status 1 wait $job
        cat /tmp/error
        grep -q 'fills up' /tmp/error
        manager ListJobs 'a{sv}' 0 | grep -q '"error_name" s "[^"]*SnapshotFull"'
        step
        same "$(ours | wc -l)" 1 "the hot copy that was there before"
        doctor
        finding warning 'too full' app # hot copies may yet make room
        refused SnapshotFull 'too full' app
        same "$(ours)" "" "hot copies in a pool that is too full"
        doctor
        finding error 'too full' app
        lvremove -q -y vg-a/load >/dev/null
        vgrename -q vg-a vg-b >/dev/null
        holdpoint create app --json | jq -e '.status == "completed" and .consistency == "application"'
        vgrename -q vg-b vg-a >/dev/null

        systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd
        refused SnapshotFailed udev app
        doctor
        finding error 'udev does not run' app
        finding error 'not ext4 or XFS on a logical volume' plain
        systemctl start systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd
        refused SnapshotFailed 'not ext4 or XFS on a logical volume' plain
        """, seconds=SECONDS)


def test_room_and_disk(guest):
    """A group without room, or whose disk goes: before a backup, while an image is read, and back again. Others go on."""
    guest.disks.append(guest.disk("second"))
    guest.denials_expected = "leftover .*Read-only file system"  # the kernel's word for a file system that lost its disk
    guest(LVM + """
        group
        classic data 200M
        data ext4 /dev/vg-a/data /srv
        application /srv/app
        service app /srv/app Snapshot=lvm
        service other /mnt/app Snapshot=lvm
        echo 'devices { global_filter = [ "r|/dev/ubdc|" ] }' >/etc/lvm/lvmlocal.conf
        dmsetup create disk --table "0 $(blockdev --getsz /dev/ubdc) linear /dev/ubdc 0"
        pvcreate -q /dev/mapper/disk >/dev/null
        vgcreate -q vg-c /dev/mapper/disk >/dev/null
        lvcreate -q -y -l 60%FREE -n full vg-c >/dev/null
        lvcreate -q -y -l 100%FREE -n rest vg-c >/dev/null
        data ext4 /dev/vg-c/full /mnt
        application /mnt/app
        refused SnapshotFull 'no room' other
        doctor
        finding error 'no room' other
        finding ok 'lvm snapshots work' app
        # With "auto" it goes on without one, and that is not done in silence.
        service other /mnt/app
        holdpoint create other --json | jq -e '.status == "completed" and .consistency == "none"'
        doctor
        finding warning 'no room' other
        ! grep -q 'move it to' /tmp/report || fail "it is on a logical volume"
        journalctl --sync
        journalctl -o json HOLDPOINT_SERVICE=other MESSAGE_ID=557aec8822184bdf8edca4e946bdbeb9 >/tmp/lines
        jq -e -s 'length == 1 and (.[0].MESSAGE | contains("no room")) and .[0].PRIORITY == "4"' /tmp/lines
        service other /mnt/app Snapshot=lvm
        turn() { # TARGET: what the disk is from now on
                dmsetup suspend --nolockfs disk
                dmsetup reload disk --table "0 $(blockdev --getsz /dev/ubdc) $1"
                dmsetup resume disk
        }
        turn error
        refused SnapshotFailed 'logical volume' other
        service other /mnt/app
        doctor
        finding warning 'is its disk still there' other
        holdpoint create app --json | jq -e '.status == "completed"'

        # It is back, and goes while its image is read; what is left goes once it is back again.
        back() {
                umount -l /mnt
                turn 'linear /dev/ubdc 0'
                mount /dev/vg-c/full /mnt
        }
        back
        lvremove -q -y vg-c/rest >/dev/null
        service other /mnt/app Snapshot=lvm
        holdpoint create other --json | jq -e '.status == "completed"'
        step point-taken=stop
        holdpoint create other >/dev/null 2>/tmp/error &
        job=$!
        soon 120 stopped
        turn error
        kill -CONT "$(stopped)"
        status 1 wait $job
        cat /tmp/error
        same "$(holdpoint list --json --service other --status completed | jq .total)" 2 "backups that count as good"
        step
        back
        holdpoint create other --json | jq -e '.status == "completed"'
        clean
        """, seconds=SECONDS)


def test_names_and_mounts(guest):
    """Volumes with all that a name may have, in one point; paths behind bind mounts and on two volumes; tags alone make no snapshot."""
    guest(LVM + """
        group
        n=0
        for name in +x a..b _ "$(printf 'l%.0s' {1..110})"; do
                n=$((n + 1))
                classic "$name" 96M
                data ext4 "/dev/vg-a/$name" "/v/$n"
                application "/v/$n/app" $((100 * n))
                service "s$n" "/v/$n/app"
        done
        lvcreate -q -y -L 8M -n theirs --addtag holdpoint --addtag holdpoint.hot.00000000-0000-4000-8000-000000000001.0 vg-a >/dev/null
        holdpoint create full --json | jq -e '.status == "completed" and .consistency == "application"'
        mkdir /tmp/out
        holdpoint restore latest --into /tmp/out
        for n in 1 2 3 4; do
                same "$(rows "/tmp/out/s$n/v/$n/app")" $((100 * n)) "rows of service $n"
        done
        clean
        same "$(ours)" theirs "a volume that is no snapshot"

        # A service of two volumes, one of them seen through a bind mount, and put back the same way.
        mkdir -p /v/1/deep /bound
        mount --bind /v/1/deep /bound
        application /bound/app 50
        application /v/2/more 60
        rm /etc/holdpoint/services.d/s*.conf
        service both /bound/app Path=/v/2/more Snapshot=lvm
        systemctl reload holdpointd
        holdpoint create both --json | jq -e '.status == "completed" and .consistency == "application"'
        sqlite3 /bound/app/app.db 'delete from t where id > 5'
        sqlite3 /v/2/more/app.db 'delete from t where id > 6'
        holdpoint restore latest --service both --yes
        same "$(rows /v/1/deep/app) $(rows /v/2/more)" "50 60" "rows after the restore"
        holdpoint rollback latest --yes
        same "$(rows /bound/app) $(rows /v/2/more)" "5 6" "rows after the rollback"
        holdpoint confirm latest --yes
        # What is mounted below a path is not in the image, and that is said.
        mount -t tmpfs below /v/2/more/files
        status 3 holdpoint create both --json | jq -e '.status == "partial"'
        umount /v/2/more/files
        # The same volume through two mounts has no one root.
        application /v/1/other
        service both /bound/app Path=/v/1/other Snapshot=lvm
        refused SnapshotFailed 'another mount' both
        """, seconds=SECONDS)


def test_missing_module(guest):
    """The workers may not load one, and say which it is."""
    guest(LVM + """
        group
        classic data 400M
        data ext4 /dev/vg-a/data /srv
        application /srv/app
        service app /srv/app Snapshot=lvm
        rmmod dm_thin_pool dm_snapshot 2>/dev/null || rmmod dm_snapshot
        refused SnapshotFailed 'modprobe dm_snapshot' app
        mv /usr/libexec/holdpoint/holdpoint-lvm /tmp
        doctor
        jq -e '[.findings[] | select(.check == "program")] | length == 1 and .[0].severity == "error" and
               (.[0].subject | endswith("/holdpoint-lvm"))' /tmp/report
        mv /tmp/holdpoint-lvm /usr/libexec/holdpoint
        doctor
        finding error 'modprobe dm_snapshot' app
        modprobe dm_snapshot
        doctor
        finding ok 'lvm snapshots work' app
        jq -e '[.findings[] | select(.check == "program")] == []' /tmp/report
        same "$(pgrep -c holdpoint-lvm || true) $(ours)" "0 " "what the doctor left"
        holdpoint create app --json | jq -e '.status == "completed" and .consistency == "application"'
        """, seconds=SECONDS)


def test_pool_metadata(guest):
    """A pool that has room for data but none for its mappings: the job that runs ends, and none is begun."""
    guest(LVM + """
        pvcreate -q /dev/ubdb >/dev/null
        vgcreate -q -s 1m vg-a /dev/ubdb >/dev/null
        lvcreate -q -y -L 1100M --poolmetadatasize 2m -c 64k -Zn -T vg-a/pool >/dev/null 2>&1
        thin data 80M
        thin big 700M
        data ext4 /dev/vg-a/data /srv
        application /srv/app
        service app /srv/app
        # Mappings of a whole volume, then of what its copies do not share with it any more.
        cat >/tmp/fill.py <<'END'
import os, subprocess
CHUNK, CHUNKS, COPIES, LIMIT = 65536, 700 << 4, 12, 91
def full():
    used, total = subprocess.check_output(["dmsetup", "status", "vg--a-pool-tpool"], text=True).split()[4].split("/")
    return 100 * int(used) / int(total)
def touch(name, step):
    fd = os.open("/dev/vg-a/" + name, os.O_WRONLY)
    for n, chunk in enumerate(range(0, CHUNKS, step)):
        os.pwrite(fd, b"x" * 4096, chunk * CHUNK)
        if step > 1 and n % 10 == 9:
            os.fsync(fd)
            if full() >= LIMIT:
                break
    os.fsync(fd)
    os.close(fd)
touch("big", 1)
for n in range(COPIES):
    subprocess.run(["lvcreate", "-q", "-y", "-s", "-kn", "-n", "copy%d" % n, "vg-a/big"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
for n in range(COPIES):
    if full() < LIMIT:
        touch("copy%d" % n, 100)
print("metadata", full())
assert LIMIT <= full() < 99
END
        step point-taken=stop
        holdpoint create app >/dev/null 2>/tmp/error &
        job=$!
        soon 120 stopped
        python3 /tmp/fill.py
        kill -CONT "$(stopped)"
        status 1 wait $job
        cat /tmp/error
        grep -q 'fills up' /tmp/error
        step
        same "$(ours)" "" "snapshots that are left"
        refused SnapshotFull 'metadata 9[0-9] %' app
        doctor
        finding error 'too full' app
        """, seconds=SECONDS)
