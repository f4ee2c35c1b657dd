#!/usr/bin/python3
"""The demo: three services on a file system of their own, backed up under load, damaged, restored, rolled back.

Everything is real: file systems on loop devices, a private bus, the agent as an unprivileged user, root's
workers behind sockets, applications that write at full speed. All of it is gone afterwards. Every claim it
prints is checked; the exit code says whether all held.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sqlite3
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

import holdpoint  # noqa: E402
import stores  # noqa: E402
import trees  # noqa: E402
import yeepay  # noqa: E402


class Claim(Exception):
    """Something that the demo promises did not hold."""


def headline(text):
    print("\n" + text + "\n" + "-" * len(text), flush=True)


def line(what, text=""):
    print("  %-34s %s" % (what, text), flush=True)


def claim(condition, text):
    if not condition:
        raise Claim(text)
    line("checked", text)


def size(n):
    for unit in ("B", "KiB", "MiB"):
        if n < 1024 or unit == "MiB":
            return "%.1f %s" % (n, unit) if unit != "B" else "%d B" % n
        n /= 1024
    return ""


class Demo:
    def __init__(self, machine, data, snapshot):
        self.machine, self.data, self.snapshot = machine, data, snapshot
        self.stores = (data.tasks, data.users)
        self.pauses, self.longest = [], []

    # --- what the operator sees -----------------------------------------------------------------------

    def back_up(self, ring, what, *arguments):
        began = time.monotonic()
        backup = self.machine.json("create", "full", *arguments)
        took = time.monotonic() - began
        if backup["status"] != "completed":
            raise Claim("%s is %s: %s" % (what, backup["status"], backup.get("metadata")))
        self.pauses.append(backup["pause_usec"] / 1e6)
        line(what, "%.2f s for %s in %d files; %s new; hold %.1f ms; consistency %s" % (
            took, size(backup["bytes"]), backup["files"], size(backup["new_bytes"]), backup["pause_usec"] / 1000,
            backup["consistency"]))
        self.windows.append((began, began + took))
        return backup["backup_id"]

    def under_load(self):
        """Backups while both applications write files and commit."""
        self.windows = []
        with stores.Ring(self.stores, keep=0) as ring:
            time.sleep(4)
            quiet_until = time.monotonic()
            self.back_up(ring, "full backup")
            time.sleep(0.3)
            self.back_up(ring, "second backup", "--name", "second", "--description", "right after the first")
            print("  ten more, for the figures:")
            for n in range(10):
                last = self.back_up(ring, "  backup %d" % (n + 3))
            ring.stop()
            commits = ring.commits()
        self.print_waits(commits, quiet_until)
        return last

    def print_waits(self, commits, quiet_until):
        quiet = [took for began, took in commits if began + took < quiet_until]
        busy = [took for began, took in commits
                if any(began + took > first and began < last for first, last in self.windows)]
        longest = [max((took for began, took in commits if began + took > first and began < last), default=0.0)
                   for first, last in self.windows]
        line("writers", "%d commits, each after its file; none failed" % len(commits))
        line("a commit while no backup ran", "p50 %.1f  p99 %.1f  max %.1f ms" % stores.percentiles(quiet))
        line("a commit while a backup ran", "p50 %.1f  p99 %.1f  max %.1f ms" % stores.percentiles(busy))
        line("the longest of each backup", "p50 %.1f  p99 %.1f  max %.1f ms" % stores.percentiles(longest))
        line("whole hold", "p50 %.1f  p99 %.1f  max %.1f ms" % stores.percentiles(self.pauses))

    def restore(self, backup_id, what, *arguments):
        began = time.monotonic()
        done = self.machine.json("restore", backup_id, "--yes", *arguments)
        line(what, "%.2f s from the %s copy by method %s; swap %.1f ms" % (
            time.monotonic() - began, done.get("from"), done.get("method"), done.get("swap_usec", 0) / 1000))
        return done["restore_id"]

    def rollback(self, restore_id, what):
        began = time.monotonic()
        done = self.machine.json("rollback", restore_id, "--yes")
        line(what, "%.2f s; swap %.1f ms" % (time.monotonic() - began, done.get("swap_usec", 0) / 1000))

    # --- what is checked ------------------------------------------------------------------------------

    def state(self):
        """All three services, byte for byte."""
        return {path: trees.describe(path) for path in (self.data.back, self.data.admin, *self.data.system)}

    def differs(self, before):
        now = self.state()
        return [x for path in before for x in trees.differences(before[path], now[path])]

    def check_agreement(self, exact):
        rows = files = 0
        for store in self.stores:
            with contextlib.closing(sqlite3.connect(store.database)) as db:
                if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                    raise Claim(store.name + " is damaged")
                rows += db.execute("SELECT count(*) FROM " + store.table).fetchone()[0]
            files += len(store.numbers())
            wrong = store.disagreements()
            missing = [x for x in wrong if "missing" in x]
            if missing or (exact and wrong):
                raise Claim("%s: %s" % (store.name, (missing or wrong)[:3]))
        if exact:
            problem = stores.judge([s.state() for s in self.stores])
            claim(problem is None, "both databases are of one instant" + (": " + problem if problem else ""))
        claim(True, "%d rows, each with the file it names (%d files); databases whole" % (rows, files))

    def damage(self):
        with contextlib.closing(sqlite3.connect(self.data.tasks.database)) as db, db:
            db.execute("DROP TABLE outputs")
        shutil.rmtree(os.path.join(self.data.back, "uploads"))
        with open(os.path.join(self.data.admin, "config", "admin.json"), "w"):
            pass
        os.truncate(self.data.system[2], 5)
        line("damage", "table outputs dropped, uploads/ deleted, admin.json and env.production cut short")

    def run(self):
        exact = self.snapshot != "none"
        self.machine.start()
        headline("Backups under full load")
        wanted = self.under_load()
        headline("What there is")
        print(self.machine.cli("list", "--limit", "3").stdout.rstrip())
        headline("Damage and restore")
        self.damage()
        broken = self.state()
        restore = self.restore(wanted, "restore by swap")
        restored = self.state()
        self.check_agreement(exact)
        good = self.state()  # looking into a database moves its directory's time
        self.rollback(restore, "rollback")
        claim(self.differs(broken) == [], "the damaged state is back, byte for byte")
        self.rollback(restore, "rollback of the rollback")
        claim(self.differs(good) == [], "the restored state is back, byte for byte")
        self.machine.json("confirm", restore, "--yes")
        line("confirmed", "the damaged tree is gone")
        self.from_repository(wanted, restored)

    def from_repository(self, wanted, restored):
        headline("The same from the repository alone")
        began = time.monotonic()
        output = os.path.join(self.machine.directory, "aside")
        self.machine.json("restore", wanted, "--into", output, "--from", "local")
        line("extracted aside", "%.2f s" % (time.monotonic() - began))
        services = (("main_service", self.data.back), ("admin_service", self.data.admin))
        wrong = []
        for service, path in services:
            wrong += trees.differences(restored[path], trees.describe(os.path.join(output, service) + path))
        claim(wrong == [], "equal to the restored trees in content, names, modes, owners, times, attributes"
              + "".join("\n      " + w for w in wrong))
        began = time.monotonic()
        self.machine.json("verify", wanted, "--depth", "data")
        line("verified every sealed byte", "%.2f s" % (time.monotonic() - began))


def show(kind, snapshot, scale, text):
    headline(text)
    with holdpoint.LoopFs(kind, 6144) as fs, holdpoint.Machine() as machine:
        began = time.monotonic()
        data = yeepay.YeePay(fs, scale).make()
        count = sum(len(files) for _, _, files in os.walk(data.top))
        line("data", "%d files; tasks.db %s (WAL), admin.db %s (rollback journal, of an ordinary user); made in %.0f s" % (
            count, size(os.path.getsize(data.tasks.database)), size(os.path.getsize(data.users.database)),
            time.monotonic() - began))
        data.configure(machine, Snapshot=snapshot)
        try:
            Demo(machine, data, snapshot).run()
        finally:
            machine.stop()


def main():
    parser = argparse.ArgumentParser(description="back up, damage, restore and roll back three services")
    parser.add_argument("--scale", type=float, default=1.0, help="amount of data, 1.0 is about 150 MB")
    parser.add_argument("--only", choices=("btrfs", "ext4"), help="one half of the demo")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    try:
        if a.only != "ext4":
            show("btrfs", "auto", a.scale, "Part 1: btrfs, with a hold and snapshots")
        if a.only != "btrfs":
            show("ext4", "none", a.scale, "Part 2: ext4, Snapshot=none")
            print("""
Weaker here, and said so by 'consistency none': there is no instant for all of it. A database in WAL mode is copied
as of the hold, through SQLite's online backup; one with a rollback journal as of the end of its copy, in short slices
between its writers, who wait for them; and each file is taken as it was when the backup came to it, so that files may
be newer than the rows. There are no hot copies: a restore reads the repository.""")
    except (Claim, holdpoint.FixtureError, holdpoint.CliError) as error:
        print("\nThe demo failed: %s" % error, file=sys.stderr)
        return 1
    print("\nEverything held; nothing was left behind.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
