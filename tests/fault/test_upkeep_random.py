"""Backups, deletions, pins, prunes, kills, lost caches and a clock that jumps, in any order, beside a model of
what must be there. HOLDPOINT_TEST_STEPS=N and HOLDPOINT_TEST_SEED=N ask for more than the suite does."""

import os
import random
import time
import uuid

import pytest

import fakeclock
import holdpoint
import upkeepsite
import worker

DAYS, MINIMUM = 6, 2
STEPS = int(os.environ.get("HOLDPOINT_TEST_STEPS", "200"))
SEED = int(os.environ.get("HOLDPOINT_TEST_SEED", "1"))
KILLS = ["expired", "record-deleted", "marked", "condemned", "rows-forgotten", "pack-unlinked@1", "pack-unlinked@3",
         "session-deleted"]


class Model:
    """The rules of retention, written down a second time: from docs/man/holdpoint.conf.5 and docs/adr."""

    def __init__(self):
        self.backups = {}  # id -> [day, parent, pinned]
        self.order = []

    def times(self, now):
        times = {i: b[0] for i, b in self.backups.items()}
        for i in self.order:  # parents are older in this order, whatever their dates
            parent = self.backups[i][1]
            if parent in times and times[parent] < now:
                times[i] = max(times[i], times[parent] + 1e-9)
        return times

    def dropped(self, now):
        times = self.times(now)
        past = sorted((i for i in times if times[i] <= now), key=lambda i: -times[i])
        dropped, age, later = set(), 0, now
        for n, i in enumerate(past):
            age += min(later - times[i], DAYS / 2)
            later = times[i]
            if age > DAYS and n >= MINIMUM and not self.backups[i][2]:
                dropped.add(i)
        return dropped


class Run:
    def __init__(self, site, clock):
        self.site, self.clock, self.model, self.day = site, clock, Model(), 0
        self.began = time.monotonic()
        self.random = random.Random(SEED)
        self.log = []

    def set_day(self, day):
        self.day = day
        self.clock.set(day)

    def now(self):
        """In days. The clock goes on from where it was set."""
        return self.day + (time.monotonic() - self.began) / 86400

    def row(self, backup):
        rows = [m["backup"] for m in self.site.maintain("reconcile").of_type("backup")]
        return next(r for r in rows if r["backup_id"] == backup)

    def create(self):
        for _ in range(self.random.randint(1, 3)):
            name = "f%d" % self.random.randrange(6)
            size = self.random.choice((100, 3000, 70000, 400000))
            self.site.write(name, self.random.randbytes(size) if self.random.random() < 0.7 else b"same" * 20000)
        day = self.now()
        backup = self.site.create(pinned=self.random.random() < 0.05)
        row = self.row(backup)
        self.model.backups[backup] = [day, row["parent_id"], row["pinned"]]
        self.model.order.append(backup)

    def forget(self, backup):
        del self.model.backups[backup]
        self.model.order.remove(backup)

    def delete(self):
        if self.model.order:
            backup = self.random.choice(self.model.order)
            self.site.delete(backup)
            self.forget(backup)

    def pin(self):
        if self.model.order:
            backup, pinned = self.random.choice(self.model.order), self.random.random() < 0.4
            answer = self.site.maintain("pin", backup_id=backup, pinned=pinned)
            assert answer.result == "done", answer
            self.model.backups[backup][2] = pinned

    def prune(self):
        expected = self.model.dropped(self.now())
        dry = self.site.maintain("prune", dry_run=True)
        assert set(dry.summary["backups"]) == expected, self.log[-30:]
        answer = self.site.prune()
        assert set(answer.summary["backups"]) == expected
        assert {m["backup_id"] for m in answer.of_type("removed")} == expected
        assert answer.summary["packs"] == dry.summary["packs"]
        for backup in expected:
            self.forget(backup)
            del self.site.expected[backup]
        self.site.check(verify=False)

    def killed_prune(self):
        """What it came to remove, it was to remove."""
        expected = self.model.dropped(self.now())
        step = self.random.choice(KILLS)
        self.log.append(step)
        self.site.machine.workers.restart("maintain", HOLDPOINT_STEP=step + "=kill")
        try:
            self.site.maintain("prune", dry_run=False)
        except worker.Lost:
            pass
        self.site.machine.workers.restart("maintain")
        gone = set(self.site.expected) - self.site.records()
        assert gone <= expected, self.log[-30:]
        for backup in gone:
            self.forget(backup)
            del self.site.expected[backup]
        self.site.check(verify=False)

    def killed_backup(self):
        self.site.write("f0", self.random.randbytes(200000))
        step = self.random.choice(("stored", "packs-finished", "packs-durable", "before-record"))
        self.site.machine.workers.restart("backup", HOLDPOINT_STEP=step + "=kill")
        with pytest.raises(worker.Lost):
            self.site.ask("backup", "create", backup_id=str(uuid.uuid4()), backup_name="", backup_type="app",
                          description="", created_by="uid:0", schedule="", services=["app"])
        self.site.machine.workers.restart("backup")

    def lose_a_cache(self):
        state = self.site.machine.worker_state
        for name in self.random.choice((("index.db", "index.db-wal", "index.db-shm"), ("damaged-packs.json",),
                                        ("base/app",), ("reserve",))):
            path = os.path.join(state, name)
            if os.path.isfile(path):
                os.unlink(path)

    def verify(self):
        if self.model.order:
            answer = self.site.maintain("verify", backup_id=self.random.choice(self.model.order),
                                        depth=self.random.choice(("metadata", "data")))
            assert answer.result == "done", answer

    def let_time_pass(self):
        self.set_day(self.day + self.random.uniform(0, 2))

    def jump(self):
        self.set_day(self.day + self.random.choice((-365, -40, -3, 20, 40, 365)))

    def step(self):
        act = self.random.choices(
            (self.create, self.let_time_pass, self.delete, self.pin, self.prune, self.killed_prune,
             self.killed_backup, self.lose_a_cache, self.verify, self.jump),
            (30, 25, 5, 8, 10, 4, 2, 3, 5, 3))[0]
        self.log.append((act.__name__, self.day))
        act()


def test_any_order(install):
    with holdpoint.Machine(install) as machine:
        clock = fakeclock.FakeClock(machine)
        site = upkeepsite.Site(machine, "[Retention]\nDays=%d\nMinimumBackups=%d\n" % (DAYS, MINIMUM))
        site.start()
        run = Run(site, clock)
        run.create()
        for _ in range(STEPS):
            run.step()
        site.check()
        for backup in list(site.expected):
            site.delete(backup)
        site.prune()
        assert site.files("packs") == site.files("sessions") == site.files("pins") == []
