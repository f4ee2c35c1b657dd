"""The whole product through its command line, on btrfs with snapshots and on ext4 without.

Every test asks what an operator would: is the data back, byte for byte; is what failed said to have failed.
"""

import hashlib
import os
import shutil
import sqlite3
import subprocess

import holdpoint
import pytest
import trees
import yeepay


def database_digest(path):
    """A database's content. What the online backup API writes differs in three counters of its header."""
    with open(path, "rb") as f:
        data = bytearray(f.read())
    data[24:28], data[40:44], data[92:100] = bytes(4), bytes(4), bytes(8)
    return hashlib.sha256(data).hexdigest()


class World:
    """Three small services on one file system, and the machine that backs them up."""

    def __init__(self, machine, fs, snapshot):
        self.machine, self.fs = machine, fs
        self.data = yeepay.YeePay(fs, scale=0.02).make()
        self.paths = (self.data.back, self.data.admin, *self.data.system)
        self.data.configure(machine, Snapshot=snapshot)
        machine.start()

    def describe(self, top):
        """One path. Side files of WAL databases come and go with whoever opens them, and move their directory's time."""
        found = {}
        for relative, d in trees.describe(top).items():
            if relative.endswith(b".db"):
                d["sha256"] = database_digest(os.path.join(os.fsencode(top), relative))
                found[b"."].pop("mtime", None)
            if not relative.endswith((b"-wal", b"-shm")):
                found[relative] = d
        return found

    def state(self, paths=None):
        return {os.fsencode(path) + b"//" + relative: d
                for path in paths or self.paths for relative, d in self.describe(path).items()}

    def back_up(self, what="full", *arguments):
        backup = self.machine.json("create", what, *arguments)
        assert (backup["result"], backup["status"]) == ("done", "completed"), backup
        return backup

    def damage(self):
        with sqlite3.connect(self.data.tasks.database) as db:
            db.execute("DROP TABLE tasks")
        db.close()
        shutil.rmtree(os.path.join(self.data.back, "uploads"))
        trees.write(os.path.join(self.data.admin, "config", "admin.json"))
        os.truncate(self.data.system[2], 3)
        trees.write(os.path.join(self.data.system[3], "sites", "planted.conf"), b"evil")


@pytest.fixture(params=["btrfs", "ext4"])
def world(request, machine):
    with holdpoint.LoopFs(request.param, 1024) as fs:
        try:
            yield World(machine, fs, "auto" if request.param == "btrfs" else "none")
        finally:
            machine.stop()


@pytest.fixture
def snapshots(machine):
    with holdpoint.LoopFs("btrfs", 1024) as fs:
        try:
            yield World(machine, fs, "auto")
        finally:
            machine.stop()


def test_swap_rollback_and_back(world):
    m, before = world.machine, world.state()
    backup = world.back_up("full", "--name", "first", "--description", "by hand")
    assert backup["backup_name"] == "first" and backup["description"] == "by hand"
    assert backup["services"] == ["admin_service", "main_service", "system_config"]
    assert {d["path"] for d in backup["databases"]} == {world.data.tasks.database, world.data.users.database}
    world.damage()
    damaged = world.state()
    restore = m.json("restore", "latest", "--yes")
    assert restore["result"] == "done"
    assert trees.differences(before, world.state()) == []
    m.json("rollback", "latest", "--yes")
    assert trees.differences(damaged, world.state()) == []
    m.json("rollback", restore["restore_id"], "--yes")
    assert trees.differences(before, world.state()) == []
    m.json("confirm", "latest", "--yes")
    assert trees.differences(before, world.state()) == []
    assert m.json("restores")["restores"][0]["state"] == "confirmed"


def test_one_service_alone(world):
    before = world.state()
    world.back_up()
    world.damage()
    others = world.state((world.data.admin, *world.data.system))
    world.machine.json("restore", "latest", "--service", "main_service", "--yes")
    good = {k: v for k, v in before.items() if k.startswith(os.fsencode(world.data.back) + b"//")}
    assert trees.differences(good, world.state((world.data.back,))) == []
    assert trees.differences(others, world.state((world.data.admin, *world.data.system))) == []


def test_from_the_repository(snapshots):
    before = snapshots.state()
    snapshots.back_up()
    snapshots.damage()
    restore = snapshots.machine.json("restore", "latest", "--from", "local", "--yes")
    assert restore["from"] == "local"
    assert trees.differences(before, snapshots.state()) == []


def test_aside_leaves_the_live_data_alone(world):
    before = world.state()
    world.back_up()
    output = os.path.join(world.fs.path, "aside")
    world.damage()
    damaged = world.state()
    world.machine.json("restore", "latest", "--into", output)
    assert trees.differences(damaged, world.state()) == []
    services = {world.data.back: "main_service", world.data.admin: "admin_service"}
    for path in world.paths:
        copy = os.path.join(output, services.get(path, "system_config")) + path
        wanted = {k.split(b"//")[1]: v for k, v in before.items() if k.startswith(os.fsencode(path) + b"//")}
        assert trees.differences(wanted, world.describe(copy)) == []


def test_incremental(world):
    """What is there already costs nothing; also after a restore and after a rollback."""
    world.back_up()
    size = os.path.getsize(world.data.tasks.database)
    again = world.back_up()
    assert again["new_bytes"] < 20000, "an unchanged run stored %d bytes" % again["new_bytes"]
    trees.write(os.path.join(world.data.back, "uploads", "one-more.png"), os.urandom(30000))
    more = world.back_up()
    assert 30000 <= more["new_bytes"] < 70000
    world.machine.json("restore", again["backup_id"], "--yes")
    after = world.back_up()
    assert after["new_bytes"] < 40000 < size
    world.machine.json("rollback", "latest", "--yes")
    assert world.back_up()["new_bytes"] < 40000


def test_excluded_files_survive_a_restore(snapshots):
    data = snapshots.data
    snapshots.machine.write_service("main_service", data.back, Exclude="thumbnails/**")
    snapshots.machine.reload()
    snapshots.back_up("main_service")
    trees.write(os.path.join(data.back, "thumbnails", "later.png"), b"made after the backup")
    before = trees.describe(os.path.join(data.back, "thumbnails"))
    shutil.rmtree(os.path.join(data.back, "uploads"))
    snapshots.machine.json("restore", "latest", "--service", "main_service", "--yes")
    assert os.path.isdir(os.path.join(data.back, "uploads"))
    after = trees.describe(os.path.join(data.back, "thumbnails"))
    before[b"."].pop("mtime"), after[b"."].pop("mtime")
    assert trees.differences(before, after) == []


def test_only_three_hot_copies_are_kept(snapshots):
    ids = [snapshots.back_up("main_service")["backup_id"] for _ in range(5)]
    backups = {b["backup_id"]: b["copies"] for b in snapshots.machine.json("list")["backups"]}
    assert [("hot" in backups[i]) for i in ids] == [False, False, True, True, True]
    assert all("local" in backups[i] for i in ids)
    kept = subprocess.run(["btrfs", "subvolume", "list", snapshots.fs.path], capture_output=True, text=True, check=True)
    assert sum(".holdpoint/" in line for line in kept.stdout.splitlines()) == 3


def test_list_show_delete(world):
    m = world.machine
    first, second = world.back_up("main_service"), world.back_up("full")
    listed = m.json("list")
    assert listed["total"] == 2
    assert [b["backup_id"] for b in listed["backups"]] == [second["backup_id"], first["backup_id"]]
    assert m.json("list", "--type", "main_service")["total"] == 1
    assert m.json("list", "--page", "9")["backups"] == []
    assert m.json("show", first["backup_id"][:8])["backup_type"] == "main_service"
    m.json("delete", first["backup_id"], "--yes")
    assert m.json("list")["total"] == 1
    m.cli("show", first["backup_id"], exit_code=5)
    assert first["backup_id"] not in os.listdir(os.path.join(m.repository, "backups"))
    world.damage()
    m.json("restore", second["backup_id"], "--yes")


def test_refusals(snapshots):
    m = snapshots.machine
    snapshots.back_up()
    before = snapshots.state()
    m.cli("restore", "latest", exit_code=2)
    m.cli("delete", "latest", exit_code=2)
    m.cli("create", "no_such_service", exit_code=5)
    m.cli("restore", "latest", "--service", "no_such_service", "--yes", exit_code=5)
    m.cli("show", "00000000-0000-4000-8000-000000000000", exit_code=5)
    m.cli("list", exit_code=4, user="nobody")
    assert trees.differences(before, snapshots.state()) == []


def test_a_target_in_use_is_not_swapped(snapshots):
    snapshots.back_up()
    snapshots.damage()
    damaged = snapshots.state()
    with open(os.path.join(snapshots.data.back, "tasks.db"), "rb"):
        failed = snapshots.machine.call("restore", "latest", "--yes", "--json")
    assert failed.returncode == 1 and "TargetInUse" in failed.stdout
    assert trees.differences(damaged, snapshots.state()) == []


def test_verify_finds_one_flipped_bit(snapshots):
    m = snapshots.machine
    backup = snapshots.back_up()
    m.json("verify", "latest", "--depth", "data")
    packs = [os.path.join(d, n) for d, _, names in os.walk(os.path.join(m.repository, "packs")) for n in names]
    victim = max(packs, key=os.path.getsize)
    with open(victim, "r+b") as f:
        byte = os.pread(f.fileno(), 1, 100000)
        os.pwrite(f.fileno(), bytes([byte[0] ^ 1]), 100000)
    failed = m.call("verify", backup["backup_id"], "--depth", "data", "--json")
    assert failed.returncode == 8
    assert os.path.basename(victim).replace(".pack", "") in failed.stdout
    with open(victim, "r+b") as f:
        os.pwrite(f.fileno(), byte, 100000)
    m.json("verify", "latest", "--depth", "data")
    snapshots.back_up()


def test_the_catalogue_is_expendable(snapshots):
    m = snapshots.machine
    for what in ("full", "main_service", "full"):
        snapshots.back_up(what)
    m.json("restore", "latest", "--yes")
    before, restores = m.json("list")["backups"], m.json("restores")["restores"]
    m.agent.stop()
    shutil.rmtree(m.state)
    os.mkdir(m.state, 0o700)
    shutil.chown(m.state, holdpoint.AGENT_USER, holdpoint.AGENT_USER)
    m.agent.start(m.bus)
    holdpoint.wait_until(lambda: m.json("list")["total"] == 3, "the catalogue rebuilt")
    after = m.json("list")["backups"]
    assert sorted(before, key=lambda b: b["backup_id"]) == sorted(after, key=lambda b: b["backup_id"])
    assert restores == m.json("restores")["restores"]
