"""What keeps a repository in order: retention, prune, pins, verification, hot copies, old trees.

The workers' clock is the test's: days pass as it says."""

import os
import random
import shutil
import uuid

import pytest

import fakeclock
import holdpoint
import worker

DAMAGED = 8  # exit code

class Site:
    def __init__(self, fs, machine):
        self.fs, self.machine, self.clock = fs, machine, fakeclock.FakeClock(machine)
        self.data = fs.directory("data")
        self.area = os.path.join(fs.path, ".holdpoint")
        self.write("kept", os.urandom(200000))
        machine.write_service("app", self.data)

    def config(self, text):
        self.machine.write_config("PackSizeMiB=1\n" + text)

    def write(self, name, content):
        with open(os.path.join(self.data, name), "wb") as f:
            f.write(content)

    def create(self, day, *arguments):
        """A backup of that day, with content of its own."""
        self.clock.set(day)
        self.write("changed", os.urandom(300000))
        return self.machine.json("create", "app", *arguments)["backup_id"]

    def prune(self, day, *arguments):
        self.clock.set(day)
        return self.machine.json("prune", "--yes", *arguments)

    def listed(self):
        return {b["backup_id"]: b for b in self.machine.json("list", "--limit", 500)["backups"]}

    def packs(self):
        return sorted(os.path.join(d, n) for d, _, names in os.walk(os.path.join(self.machine.repository, "packs"))
                      for n in names)

    def hot(self):
        """The backups that have an image, by name, and what their rows say."""
        images = {n.split(".")[1] for n in os.listdir(self.area) if n.startswith("hot.")}
        rows = {i for i, b in self.listed().items() if "hot" in b["copies"]}
        assert images == rows
        return images


@pytest.fixture
def site(install):
    with holdpoint.LoopFs("btrfs", 1024) as fs, holdpoint.Machine(install) as machine:
        s = Site(fs, machine)
        s.config("[Retention]\nDays=10\nMinimumBackups=1\n")
        machine.start()
        yield s


def test_retention(site):
    backups = [site.create(day) for day in (0, 4, 8, 12)]
    pinned = site.create(1)  # the clock was set back: as new as what it started from
    site.machine.cli("pin", backups[0])
    assert site.listed()[backups[0]]["pinned"]
    packs = site.packs()
    dry = site.prune(16, "--dry-run")
    assert dry["backups"] == [backups[1]] and dry["packs"] > 0 and dry["dry_run"]
    assert site.packs() == packs and set(site.listed()) == {*backups, pinned}
    done = site.prune(16)
    assert done["backups"] == [backups[1]] and done["packs"] == dry["packs"] == len(packs) - len(site.packs())
    assert done["freed_bytes"] == dry["freed_bytes"] > 300000
    assert set(site.listed()) == {backups[0], backups[2], backups[3], pinned}
    for backup in site.listed():
        site.machine.cli("verify", backup, "--depth", "data")
    # A year ahead at one stroke: only half of the days have passed since the last backup.
    assert site.prune(12 + 365)["backups"] == []
    # A year back: everything is of the future, and stays.
    assert site.prune(-365)["backups"] == []
    site.machine.cli("unpin", backups[0])
    assert not site.listed()[backups[0]]["pinned"]
    assert site.prune(16)["backups"] == [backups[0]]
    # However old, the last good one stays: partial ones after it do not count.
    last = site.create(20)
    site.write("bad.db", b"SQLite format 3\0" + bytes(4080))
    for day in (24, 28, 32, 36):
        site.clock.set(day)
        site.machine.cli("create", "app", exit_code=3)
    dropped = site.prune(37)["backups"]
    assert last in site.listed() and pinned in dropped and len(site.listed()) == 4
    site.machine.cli("verify", last, "--depth", "data")


def test_retention_of_schedules(site):
    """Each schedule's own days for its own backups, what was made by hand by [Retention]; the run itself removes."""
    def schedule(name, days):
        directory = os.path.join(site.machine.units, "holdpoint@%s.timer.d" % name)
        os.mkdir(directory)
        with open(os.path.join(directory, "50-holdpoint.conf"), "w") as f:
            f.write("[X-Holdpoint]\nType=app\nRetentionDays=%d\n\n[Timer]\nOnCalendar=daily\n" % days)

    def run(day, name):
        site.clock.set(day)
        backup = site.machine.json("schedule", "run", name)["backup_id"]
        holdpoint.wait_until(lambda: all(j["state"] == "finished" for j in site.machine.json("jobs")["jobs"]), "its prune")
        return backup
    schedule("short", 4)
    schedule("long", 30)
    long = [run(0, "long")]
    hand = site.create(0)
    short = [run(day, "short") for day in (0, 1.5, 3)]
    assert set(site.listed()) == {hand, *short, *long}
    short.append(run(4.5, "short"))
    assert set(site.listed()) == {hand, *short[1:], *long}
    long.append(run(9, "long"))
    assert set(site.listed()) == {hand, *short[2:], *long}
    assert set(site.prune(12)["backups"]) == {hand, short[2]}
    assert {b["schedule"] for b in site.listed().values()} == {"short", "long"}
    # Without its schedule a backup is like one by hand.
    shutil.rmtree(os.path.join(site.machine.units, "holdpoint@long.timer.d"))
    assert site.prune(12)["backups"] == [long[0]]


def defaults(site, text):
    with open(site.machine.defaults, "w") as f:
        f.write(text)


def test_days_of_the_defaults_file(site):
    """BACKUP_RETENTION_DAYS= is what prune goes by, as long as the configuration says nothing."""
    backups = [site.create(day) for day in (0, 2, 4, 6, 8)]
    defaults(site, "BACKUP_RETENTION_DAYS=7\n")
    assert site.prune(8)["backups"] == []  # [Retention] Days=10 stands in holdpoint.conf
    site.config("")
    assert site.prune(8)["backups"] == backups[:1]
    defaults(site, "")
    assert site.prune(8)["backups"] == []  # 30, as without both
    defaults(site, "BACKUP_RETENTION_DAYS=5\n")
    assert site.prune(8)["backups"] == backups[1:2]


def test_level_of_the_defaults_file(site):
    """BACKUP_COMPRESSION_LEVEL= is how packs are written; the configuration, and who asks for a backup, know better."""
    rng = random.Random(1)
    words = [rng.randbytes(rng.randrange(3, 9)).hex() for _ in range(3000)]

    def stored(*arguments):
        """The same kind of text each time, of which nothing is stored yet."""
        site.write("text", (" ".join(rng.choice(words) for _ in range(100000)) + "\n").encode())
        return site.machine.json("create", "app", *arguments)["new_bytes"]
    size = {}
    site.config("")
    for level in (0, 1, 9):
        defaults(site, "BACKUP_COMPRESSION_LEVEL=%d\n" % level)
        size[level] = stored()
    assert size[0] > 1000000 > 1.5 * size[1] and size[1] > size[9]
    defaults(site, "BACKUP_COMPRESSION_LEVEL=0\n")
    assert stored("--compression-level", "9") < size[1]
    site.machine.write_config("CompressionLevel=9\n")
    assert stored() < size[1] and stored("--compression-level", "0") > size[1] * 1.5


def test_last_good_one_is_whole_and_sound(site):
    """Neither databases alone nor a damaged backup take the place of the last good one."""
    whole = site.create(0)
    for day in (4, 8, 12, 16):
        lesser = site.create(day, "--no-include-files")
    assert site.prune(17)["backups"] and set(site.listed()) >= {whole, lesser}
    old = set(site.packs())
    damaged = site.create(20)
    for pack in sorted(set(site.packs()) - old, key=pack_kind)[:1]:
        flip(pack)
    site.machine.cli("verify", damaged, "--depth", "data", exit_code=DAMAGED)
    for day in (24, 28, 32):
        site.create(day, "--no-include-files")
    assert damaged in site.prune(37)["backups"]
    assert whole in site.listed()
    site.machine.cli("verify", whole, "--depth", "data")


def test_deleted_data_goes(site):
    first, second = site.create(0), site.create(1)
    site.machine.cli("delete", first, "--yes")
    before = site.packs()
    assert site.prune(1)["packs"] == len(before) - len(site.packs()) > 0
    site.machine.cli("verify", second, "--depth", "data")
    assert site.prune(1)["packs"] == 0


def test_names_are_not_believed(site):
    """Retention is computed from the records: a request that names backups removes none of them."""
    backup = site.create(0)
    answer = worker.ask(site.machine, "maintain", "prune", dry_run=False, backups=[backup], backup_id=backup)
    assert answer.result == "done" and answer.summary["backups"] == []
    assert worker.ask(site.machine, "backup", "prune", dry_run=False).error == "InvalidArgument"
    site.machine.cli("verify", backup, "--depth", "data")


def test_pin(site):
    backup = site.create(0)
    path = os.path.join(site.machine.repository, "pins", backup)
    answer = worker.ask(site.machine, "maintain", "pin", backup_id=backup, pinned=True)
    assert answer.summary == {"backup_id": backup, "pinned": True} and os.path.exists(path)
    assert [m["backup"]["pinned"] for m in answer.of_type("backup")] == [True]
    answer = worker.ask(site.machine, "maintain", "pin", backup_id=backup, pinned=False)
    assert answer.result == "done" and not os.path.exists(path)
    unknown = worker.ask(site.machine, "maintain", "pin", backup_id=str(uuid.uuid4()), pinned=True)
    assert unknown.error == "NoSuchBackup" and os.listdir(os.path.dirname(path)) == []


# ---- verification ----

def pack_kind(path):
    """1 content, 2 metadata."""
    with open(path, "rb") as f:
        return f.read(12)[10]


def damaged_objects(site, backup, depth="data"):
    return " ".join(site.machine.json("verify", backup, "--depth", depth, exit_code=DAMAGED)["damaged_objects"])



def flip(path):
    with open(path, "r+b") as f:
        f.seek(200)
        byte = f.read(1)[0]
        f.seek(200)
        f.write(bytes([byte ^ 4]))


def test_verification_is_noted(site):
    backup = site.create(0)
    assert site.listed()[backup]["verified_at"] == ""
    site.machine.cli("verify", backup, "--depth", "metadata")
    row = site.listed()[backup]
    assert row["verified_depth"] == "metadata" and row["verified_result"] == "sound" and row["verified_at"]
    for pack in site.packs():
        flip(pack)
    site.machine.cli("verify", backup, "--depth", "data", exit_code=DAMAGED)
    row = site.listed()[backup]
    assert (row["verified_depth"], row["verified_result"]) == ("data", "damaged")
    for pack in site.packs():
        flip(pack)
    site.machine.cli("verify", backup, "--depth", "data")
    assert site.listed()[backup]["verified_result"] == "sound"
    site.machine.cli("delete", backup, "--yes")
    assert os.listdir(os.path.join(site.machine.worker_state, "verified")) == []


def test_bit_rot(site):
    """Found, named, other backups unharmed; the next backup does not rely on what is damaged."""
    first = site.create(0)
    old = set(site.packs())
    second = site.create(1)  # of the first it needs 'kept' alone
    # Content first: of a manifest that cannot be read nobody knows what else it needs.
    for pack in sorted(set(site.packs()) - old, key=pack_kind):
        flip(pack)
        assert os.path.basename(pack) in damaged_objects(site, second)
    site.machine.cli("verify", first, "--depth", "data")
    damaged = set(site.packs()) - old
    assert worker.ask(site.machine, "maintain", "repository").summary["damaged_packs"] == len(damaged)
    third = site.machine.json("create", "app")["backup_id"]  # nothing has changed
    for backup in (first, second, third):
        site.machine.cli("verify", backup, "--depth", "data")
    assert site.prune(1)["packs"] == len(damaged) and not damaged & set(site.packs())
    assert worker.ask(site.machine, "maintain", "repository").summary["damaged_packs"] == 0
    for backup in (first, second, third):
        site.machine.cli("verify", backup, "--depth", "data")


@pytest.mark.parametrize("what", ["backups", "sessions", "hosts", "packs"])
def test_damage_is_named_and_alone(site, what):
    first, second = site.create(0), site.create(1)
    site.machine.cli("delete", site.create(2), "--yes")  # something to prune
    top = os.path.join(site.machine.repository, what)
    if what == "packs":  # the one that has the manifest of the second: metadata, made last but one
        packs = [p for p in site.packs() if pack_kind(p) == 2]
        path = sorted(packs, key=os.path.getmtime)[1]
    elif what == "backups":
        path = os.path.join(top, second)
    else:
        path = sorted((os.path.join(top, n) for n in os.listdir(top)), key=os.path.getmtime)[-2 if what == "sessions" else 0]
    flip(path)
    for depth in ("metadata", "data"):
        assert os.path.basename(path) in damaged_objects(site, second, depth)
        if what != "hosts":  # the one that all backups have
            site.machine.cli("verify", first, "--depth", depth)
    if what in ("backups", "packs"):
        # What it needs is not known: no pack goes, and the backup is named.
        before = site.packs()
        answer = worker.ask(site.machine, "maintain", "prune", dry_run=False)
        assert answer.error == "IntegrityFailure" and site.packs() == before
        with open(site.machine.worker_log, errors="replace") as f:
            assert "damaged: backups/" + second in f.read()
        # The way out.
        site.machine.cli("delete", second, "--yes")
        assert site.prune(2)["packs"] > 0
        site.machine.cli("verify", first, "--depth", "data")



def test_repository(site):
    site.machine.cli("pin", site.create(0))
    facts = worker.ask(site.machine, "maintain", "repository").summary
    assert facts["path"] == site.machine.repository and facts["format"] == 1 and not facts["read_only"]
    assert (facts["backups"], facts["pins"], facts["sessions"]) == (1, 1, 1)
    assert facts["packs"] == len(site.packs())
    assert facts["stored_bytes"] == sum(map(os.path.getsize, site.packs()))
    assert facts["features"] == {"compat": [], "ro_compat": [], "incompat": []}
    assert len(facts["recipients"]) == 1 and facts["private_key"] and not facts["recovery_proven"]


# ---- hot copies and old trees ----

def test_hot_copies(site):
    site.config("[Hot]\nKeep=2\nMaxAgeDays=5\n")
    backups = [site.create(0, "--pinned"), site.create(1), site.create(2)]
    assert site.hot() == set(backups[1:])  # a pin keeps the repository's copy
    backups.append(site.create(9))
    assert site.hot() == {backups[3]}  # the others are too old
    site.config("[Hot]\nKeep=0\n")
    backups.append(site.create(10))
    assert site.hot() == {backups[4]}  # the base of the next one stays
    # The clock is set back: the newest is still the newest.
    backups.append(site.create(-100))
    assert site.hot() == {backups[5]}
    # A sweep is a rotation too, and sends the rows.
    site.config("[Hot]\nKeep=5\n")
    backups.append(site.create(11))
    assert len(site.hot()) == 2
    site.config("[Hot]\nKeep=1\n")
    answer = worker.ask(site.machine, "backup", "sweep")
    assert answer.summary["dropped"] == 1
    assert [m["backup"]["copies"] for m in answer.of_type("backup")] == [["local"]]


def test_old_trees_expire(site):
    site.config("[Restore]\nKeepOldDays=3\n")
    backup = site.create(0)
    site.write("changed", b"after the backup")
    restored = site.machine.json("restore", backup, "--yes")
    trees = [n for n in os.listdir(site.area) if n.startswith("restore.")]
    assert len(trees) == 1
    live = sorted(os.listdir(site.data))
    site.clock.set(2)
    site.machine.json("create", "app")
    assert trees[0] in os.listdir(site.area)
    site.clock.set(-30)  # and a clock that is set back makes nothing old
    site.machine.json("create", "app")
    assert trees[0] in os.listdir(site.area)
    # What is live is not there: what is kept may be all there is.
    site.clock.set(4)
    os.rename(site.data, site.data + ".away")
    worker.ask(site.machine, "backup", "sweep")
    assert trees[0] in os.listdir(site.area)
    os.rename(site.data + ".away", site.data)
    answer = worker.ask(site.machine, "backup", "sweep")
    assert answer.summary["expired"] == 1 and trees[0] not in os.listdir(site.area)
    assert [m["restore"]["state"] for m in answer.of_type("restore")] == ["confirmed"]
    assert sorted(os.listdir(site.data)) == live and restored["restore_id"]
    site.machine.cli("rollback", restored["restore_id"], "--yes", exit_code=1)


def intents(site):
    return [n[:36] for n in os.listdir(os.path.join(site.machine.worker_state, "intents"))]


def test_history_of_restores_expires(site):
    """After ninety days, but not behind one that is not over."""
    site.config("[Restore]\nKeepOldDays=3000\n")
    backup = site.create(0)
    ids = []
    for n, over in enumerate(("confirm", None, "confirm")):
        site.write("changed", b"%d" % n)
        ids.append(site.machine.json("restore", backup, "--yes")["restore_id"])
        if over:
            site.machine.json(over, ids[-1], "--yes")
    site.clock.set(80)
    worker.ask(site.machine, "backup", "sweep")
    assert sorted(intents(site)) == sorted(ids)
    site.clock.set(100)
    worker.ask(site.machine, "backup", "sweep")
    assert sorted(intents(site)) == sorted(ids[1:])
    site.machine.json("confirm", ids[1], "--yes")
    site.clock.set(200)
    worker.ask(site.machine, "backup", "sweep")
    assert intents(site) == []


# ---- a full disk ----

@pytest.mark.parametrize("state_too", [False, True])
def test_full_disk(install, state_too):
    """Space must not be needed to win space: not even for the index."""
    with holdpoint.LoopFs("ext4", 24) as disk, holdpoint.LoopFs("btrfs", 512) as fs, \
            holdpoint.Machine(install, os.path.join(disk.path, "repository")) as machine:
        site = Site(fs, machine)
        site.config("")
        if state_too:
            state = os.path.join(disk.path, "state")
            shutil.move(machine.worker_state, state)
            machine.workers.environment["STATE_DIRECTORY"] = machine.worker_state = state
        machine.start()
        first, second = site.create(0), site.create(1)
        with open(os.path.join(disk.path, "filler"), "wb") as f:
            try:
                while True:
                    os.write(f.fileno(), bytes(65536))
            except OSError:
                pass
            try:
                while True:
                    os.write(f.fileno(), bytes(1))
            except OSError:
                pass
        site.write("changed", os.urandom(300000))
        site.clock.set(1)
        assert machine.call("create", "app").returncode == 1
        site.machine.cli("delete", first, "--yes")
        before = len(site.packs())
        done = site.prune(1)
        assert done["packs"] > 0 and len(site.packs()) < before
        site.machine.cli("verify", second, "--depth", "data")
        os.unlink(os.path.join(disk.path, "filler"))
        third = site.create(2)
        for backup in (second, third):
            site.machine.cli("verify", backup, "--depth", "data")
