#!/usr/bin/python3
"""The bench: Holdpoint beside restic and borg, all in one run, on the same data and the same file systems.

Encryption and zstd are on in all three, and each timed part ends with a sync. Ratios travel from machine to
machine, seconds do not, so the table gives how many times faster Holdpoint was than the faster of the two.
Nothing is judged here and no test runs it: the figures depend on what else the machine does.
"""

import argparse
import contextlib
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

import holdpoint  # noqa: E402
import stores  # noqa: E402

PASSWORD = "bench"
FILES_A_DIRECTORY = 1000
CHANGED = 0.01
WORDS = ("backup", "catalogue", "database", "directory", "extent", "manifest", "owner", "page", "restore", "service",
         "snapshot", "transaction", "writer", "0", "1", "42", "true", "false", "null", "prompt", "seed", "width")


# --- data -------------------------------------------------------------------------------------------------

def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def tiny_content(n, version=0):
    return b'{"id": %d, "prompt": "a picture of %d", "seed": %d, "version": %d}\n' % (n, n * 7, n * 13, version) * 4


def tiny_path(root, n):
    return os.path.join(root, "d%04d" % (n // FILES_A_DIRECTORY), "f%06d.json" % n)


def make_tiny(root, count, rng):
    for n in range(count):
        if n % FILES_A_DIRECTORY == 0:
            os.mkdir(os.path.dirname(tiny_path(root, n)))
        write(tiny_path(root, n), tiny_content(n))


def make_media(root, mib, rng):
    """Files of 4 MiB that nothing compresses."""
    for n in range(mib // 4):
        write(os.path.join(root, "m%04d.mp4" % n), rng.randbytes(4 << 20))


def make_text(root, mib, rng):
    """Files of 1 MiB of words in random order: logs, more or less."""
    for n in range(mib):
        text = bytearray()
        while len(text) < 1 << 20:
            text += b"%d " % rng.randrange(1 << 40)
            text += " ".join(rng.choices(WORDS, k=20)).encode() + b"\n"
        write(os.path.join(root, "t%04d.log" % n), bytes(text[:1 << 20]))


def make_database(root, mib):
    with contextlib.closing(sqlite3.connect(os.path.join(root, "app.db"))) as db:
        db.execute("PRAGMA journal_mode=wal").fetchone()
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        db.executemany("INSERT INTO t VALUES (?, ?)", ((n, os.urandom(3000)) for n in range(mib << 8)))
        db.commit()


def change(root, count, rng):
    """Every hundredth file and row anew."""
    for n in rng.sample(range(count), max(1, int(count * CHANGED))):
        write(tiny_path(root, n), tiny_content(n, version=rng.randrange(1 << 30)))
    with contextlib.closing(sqlite3.connect(os.path.join(root, "app.db"))) as db:
        rows = db.execute("SELECT count(*) FROM t").fetchone()[0]
        for n in rng.sample(range(rows), max(1, int(rows * CHANGED))):
            db.execute("UPDATE t SET data = ? WHERE n = ?", (os.urandom(3000), n))
        db.commit()


# --- the three --------------------------------------------------------------------------------------------

class Peer:
    """A program that keeps one repository a data set below `root`."""

    name = None

    def __init__(self, root):
        self.root, self.environment = root, dict(os.environ, HOME=root, LC_ALL="C.UTF-8")

    def run(self, *command, cwd=None):
        done = subprocess.run(command, env=self.environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
        if done.returncode:
            raise SystemExit("%s failed with %d:\n%s%s" % (" ".join(command), done.returncode, done.stdout,
                                                           done.stderr))

    def repository(self, what):
        return os.path.join(self.root, what)

    def size(self, what):
        os.sync()
        return int(subprocess.run(["du", "-s", "-B1", self.repository(what)], check=True, capture_output=True,
                                  text=True).stdout.split()[0])


class Restic(Peer):
    name = "restic"

    def __init__(self, root):
        super().__init__(root)
        self.environment["RESTIC_PASSWORD"] = PASSWORD

    def prepare(self, what, data):
        self.run("restic", "-q", "-r", self.repository(what), "init", "--repository-version", "2")

    def backup(self, what, data):
        self.run("restic", "-q", "-r", self.repository(what), "backup", data)

    def restore(self, what, target):
        self.run("restic", "-q", "-r", self.repository(what), "restore", "latest", "--target", target)


class Borg(Peer):
    name = "borg"

    def __init__(self, root):
        super().__init__(root)
        self.environment.update(BORG_PASSPHRASE=PASSWORD, BORG_BASE_DIR=root, BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")
        self.count = 0

    def prepare(self, what, data):
        self.run("borg", "init", "--encryption", "repokey-blake2", self.repository(what))

    def backup(self, what, data):
        self.count += 1
        self.run("borg", "create", "--compression", "zstd,3", "%s::%d" % (self.repository(what), self.count), data)

    def restore(self, what, target):
        self.run("borg", "extract", "%s::%d" % (self.repository(what), self.count), cwd=target)


class Holdpoint:
    """The same for ours: one machine and so one repository per data set, as with the others."""

    name = "holdpoint"

    def __init__(self, root, stack):
        self.root, self.stack, self.machines, self.last = root, stack, {}, None

    def repository(self, what):
        return os.path.join(self.root, what)

    size = Peer.size

    def prepare(self, what, data):
        machine = self.stack.enter_context(holdpoint.Machine(repository=self.repository(what)))
        machine.write_service("bench", data)
        machine.start()
        self.machines[what] = machine

    def backup(self, what, data):
        self.last = self.machines[what].json("create", "bench", timeout=1200)
        if self.last["status"] != "completed":
            raise SystemExit("the backup is %s" % self.last["status"])

    def restore(self, what, target):
        self.machines[what].json("restore", self.last["backup_id"], "--from", "local", "--into",
                                 os.path.join(target, "out"), timeout=1200)

    def restore_hot(self, what):
        """Seconds of the exchange itself and of the whole command."""
        began = time.monotonic()
        done = self.machines[what].json("restore", self.last["backup_id"], "--from", "hot", "--yes", timeout=1200)
        return done["swap_usec"] / 1e6, time.monotonic() - began


# --- measuring --------------------------------------------------------------------------------------------

def timed(function, *arguments):
    """Best known state before, everything on disk after."""
    os.sync()
    began = time.monotonic()
    function(*arguments)
    os.sync()
    return time.monotonic() - began


class Bench:
    def __init__(self, fs, tools, rng):
        self.fs, self.tools, self.rng, self.rows = fs, tools, rng, []

    def note(self, case, seconds, unit="s"):
        ours, peers = seconds[Holdpoint.name], {k: v for k, v in seconds.items() if k != Holdpoint.name}
        best = min(peers, key=peers.get)
        self.rows.append((case, seconds, peers[best] / ours if ours else 0.0, best))
        print("  %-34s %s   %6.1f × the faster (%s)" % (
            case, "  ".join("%s %8.2f %s" % (name, value, unit) for name, value in seconds.items()),
            self.rows[-1][2], best), flush=True)

    def each(self, case, function):
        self.note(case, {tool.name: timed(function, tool) for tool in self.tools})

    def sizes(self, case, what, before=None):
        now = {tool.name: tool.size(what) / (1 << 20) for tool in self.tools}
        if before:
            self.note(case, {name: now[name] - before[name] for name in now}, "MiB")
        return now

    def restore(self, case, what):
        def one(tool):
            target = os.path.join(self.fs.path, "restored-" + tool.name)
            os.mkdir(target)
            tool.restore(what, target)

        self.each(case, one)
        self.check_restored(what)
        for tool in self.tools:
            shutil.rmtree(os.path.join(self.fs.path, "restored-" + tool.name))

    def check_restored(self, what):
        """A fast restore that restored something else would be worth nothing."""
        for tool in self.tools:
            top = os.path.join(self.fs.path, "restored-" + tool.name)
            found = [d for d, names, _ in os.walk(top) if d.endswith("/srv/" + what)]
            if len(found) != 1 or subprocess.run(["diff", "-rq", "--no-dereference", found[0],
                                                  os.path.join(self.fs.path, "srv", what)]).returncode:
                raise SystemExit("%s did not restore what was backed up" % tool.name)

    def full(self, what, make, amount):
        data = self.fs.directory("srv", what)
        make(data, amount, self.rng)
        for tool in self.tools:
            tool.prepare(what, data)
        self.each("full backup, " + what, lambda tool: tool.backup(what, data))
        return data

    def tiny(self, count):
        data = self.full("tiny", make_tiny, count)
        self.each("nothing changed", lambda tool: tool.backup("tiny", data))
        self.restore("restore, tiny files", "tiny")
        hot, whole = next(t for t in self.tools if t.name == Holdpoint.name).restore_hot("tiny")
        print("  %-34s the exchange %.1f ms, the command %.2f s" % ("restore from the hot copy", hot * 1e3, whole))
        make_database(data, 64)
        for tool in self.tools:
            tool.backup("tiny", data)
        before = self.sizes("", "tiny")
        change(data, count, self.rng)
        self.each("1 % of files and rows changed", lambda tool: tool.backup("tiny", data))
        self.sizes("  and stored for it", "tiny", before)

    def large(self, mib):
        self.full("media", make_media, mib)
        self.restore("restore, media", "media")
        self.full("text", make_text, mib // 2)

    def pauses(self, backups):
        """What writers of four databases notice of a backup."""
        with holdpoint.Machine(repository=os.path.join(self.tools[0].root, "load")) as machine:
            root = self.fs.directory("srv", "load")
            four = [stores.Store("s%d" % n, os.path.join(root, "s%d" % n)).create() for n in range(4)]
            machine.write_service("load", root)
            machine.start()
            with stores.Ring(four, noise=True) as ring:
                time.sleep(1)
                holds = [machine.json("create", "load")["pause_usec"] / 1000 for _ in range(backups)]
                ring.stop()
        holds.sort()
        print("  %-34s p50 %.1f  p90 %.1f  max %.1f ms of %d" % (
            "pause, 4 databases under load", statistics.median(holds), holds[int(len(holds) * 0.9)], holds[-1],
            len(holds)), flush=True)

    def summary(self):
        print("\n%-34s %10s   %s" % ("case", "ratio", "beside"))
        for case, _, ratio, best in self.rows:
            print("%-34s %9.1f×   %s" % (case.strip(), ratio, best))


def version(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=100000, help="tiny files (default: %(default)s)")
    parser.add_argument("--mib", type=int, default=512, help="MiB of media; half of it of text (default: %(default)s)")
    parser.add_argument("--backups", type=int, default=30, help="backups under load (default: %(default)s)")
    parser.add_argument("--only", choices=("tiny", "large", "pauses"), action="append", help="only this part")
    options = parser.parse_args()
    parts = options.only or ("tiny", "large", "pauses")
    if os.geteuid() != 0:
        raise SystemExit("bench.py makes file systems on loop devices and needs root")

    print("Holdpoint beside %s and %s; load %.1f on %d processors before the start" % (
        version("restic", "version").split(" compiled")[0], version("borg", "--version"), os.getloadavg()[0],
        os.cpu_count()))
    space = 4096 + options.mib * 8 + options.files // 16
    with contextlib.ExitStack() as stack:
        fs = stack.enter_context(holdpoint.LoopFs("btrfs", space))
        kept = stack.enter_context(holdpoint.LoopFs("ext4", space))
        roots = {name: os.path.join(kept.path, name) for name in ("holdpoint", "restic", "borg")}
        for root in roots.values():
            os.mkdir(root, 0o700)
        tools = [Holdpoint(roots["holdpoint"], stack), Restic(roots["restic"]), Borg(roots["borg"])]
        bench = Bench(fs, tools, random.Random(20240115))
        if "tiny" in parts:
            bench.tiny(options.files)
        if "large" in parts:
            bench.large(options.mib)
        if "pauses" in parts:
            bench.pauses(options.backups)
        bench.summary()


if __name__ == "__main__":
    main()
