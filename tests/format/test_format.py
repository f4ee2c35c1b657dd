"""Whatever the programs write, the independent reader restores: from the repository and the private key alone."""

import os
import random

import pytest
import read_repo
import trees


def back_up(machine, *arguments):
    backup = machine.json("create", "full", *arguments)
    assert (backup["result"], backup["status"]) == ("done", "completed"), backup
    return backup["backup_id"]


def read(machine, backup_id, output, with_crc=False):
    key = os.path.join(machine.etc, "keys", "private.pem")
    return read_repo.restore(machine.repository, key, backup_id, str(output), with_crc)


def describe(top):
    """The tree as a backup must have it. A database in WAL mode gets its side files from whoever opens it, the
    hold included, which moves its directory's time; the backup holds the database recovered, without them."""
    found = {p: d for p, d in trees.describe(top).items() if not p.endswith((b"-wal", b"-shm"))}
    del found[b"content" if b"content" in found else b"."]["mtime"]
    return found


@pytest.fixture
def zoo(machine, btrfs):
    """A service with one of everything, on a started machine."""
    path = btrfs.subvolume("data")
    trees.make_zoo(path)
    trees.make_nocow(os.fsencode(path))
    machine.write_service("zoo", path)
    machine.start()
    return path


def test_everything_comes_back(machine, btrfs, zoo):
    before = describe(zoo)
    backup_id = back_up(machine)
    output = os.path.join(btrfs.path, "read")
    os.mkdir(output)
    assert read(machine, backup_id, output, with_crc=True) == len(before)
    assert trees.differences(before, describe(os.path.join(output, "zoo") + zoo)) == []


def test_each_generation_comes_back(machine, btrfs, zoo):
    """Later backups share packs, blocks and sessions with earlier ones."""
    rng, generations = random.Random(1), []
    for n in range(3):
        generations.append((back_up(machine), describe(zoo)))
        trees.write(os.path.join(zoo, "content", "text"), rng.randbytes(50000 * n + 1))
        trees.write(os.path.join(zoo, "names", "new-%d" % n), rng.randbytes(2000))
        os.unlink(os.path.join(zoo, "content", "size-%02d" % n))
        with open(os.path.join(zoo, "content", "size-09"), "r+b") as f:
            f.seek(1200000 * n)
            f.write(rng.randbytes(3000))
    for n, (backup_id, before) in enumerate(generations):
        output = os.path.join(btrfs.path, "read-%d" % n)
        os.mkdir(output)
        read(machine, backup_id, output)
        assert trees.differences(before, describe(os.path.join(output, "zoo") + zoo)) == []


@pytest.mark.parametrize("level", [0, 9])
def test_levels(machine, btrfs, level):
    path = btrfs.subvolume("data")
    trees.make_content(os.fsencode(path), random.Random(3))
    machine.write_service("data", path)
    machine.start()
    backup_id = back_up(machine, "--compression-level", level)
    output = os.path.join(btrfs.path, "read")
    os.mkdir(output)
    read(machine, backup_id, output)
    assert trees.differences(describe(path), describe(os.path.join(output, "data") + path)) == []


def test_damage_is_found(machine, btrfs):
    """The reader's own checks work: one flipped bit in every file of a small repository."""
    path = btrfs.subvolume("data")
    for n in range(4):
        trees.write(os.path.join(path, "file-%d" % n), os.urandom(3000))
    machine.write_service("data", path)
    machine.start()
    backup_id = back_up(machine)
    rng = random.Random(5)
    for folder, _, names in os.walk(machine.repository):
        for name in names:
            victim = os.path.join(folder, name)
            with open(victim, "r+b") as f:
                at = rng.randrange(os.fstat(f.fileno()).st_size)
                byte = os.pread(f.fileno(), 1, at)
                os.pwrite(f.fileno(), bytes([byte[0] ^ 4]), at)
                f.flush()
                with pytest.raises((read_repo.Damaged, ValueError, KeyError, OSError)):
                    read(machine, backup_id, os.path.join(btrfs.path, "out-" + name), with_crc=True)
                os.pwrite(f.fileno(), byte, at)
    output = os.path.join(btrfs.path, "mended")
    assert read(machine, backup_id, output, with_crc=True) > 4
