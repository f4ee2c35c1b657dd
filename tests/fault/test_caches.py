"""Caches that are gone, cut short, damaged or of another day: the next run corrects them from the truths, and no
backup is ever made of what such a cache claims.

HOLDPOINT_TEST_STEPS=N and HOLDPOINT_TEST_SEED=N ask for more than the suite does.
"""

import itertools
import os
import random
import uuid

import pytest

import cachesite

SEED = int(os.environ.get("HOLDPOINT_TEST_SEED", "1"))
STEPS = int(os.environ.get("HOLDPOINT_TEST_STEPS", "12"))
KINDS = ("index.db", "index.db-wal", "base/app", "base/app.databases", "hot", "verified", "damaged-packs.json",
         "repository.json")
HOWS = (None, "gone", "short", "garbage", "older")


@pytest.fixture
def site(install):
    with cachesite.open_site(install, SEED) as s:
        yield s


def history(site):
    """Four backups, of which the second is deleted and pruned away; each state is remembered."""
    backups = []
    for i in range(4):
        if i:
            site.change()
        backups.append(site.create()[0])
        site.done("maintain", "verify", backup_id=backups[-1], depth="data")
        site.remember()
    site.done("maintain", "delete", backup_id=backups[1])
    site.done("maintain", "prune", dry_run=False)
    site.remember()
    return backups


def rows_of_all_pairs(rng):
    """Few rows of one `how` for each kind, in which every pair of two kinds takes every pair of two hows."""
    wanted = {(a, x, b, y) for a, b in itertools.combinations(range(len(KINDS)), 2) for x in HOWS for y in HOWS}
    while wanted:
        best, covers = None, set()
        for _ in range(60):
            row = [rng.choice(HOWS) for _ in KINDS]
            a, x, b, y = rng.choice(sorted(wanted, key=repr)[:50])
            row[a], row[b] = x, y
            found = {(a, row[a], b, row[b]) for a, b in itertools.combinations(range(len(KINDS)), 2)} & wanted
            if len(found) > len(covers):
                best, covers = row, found
        wanted -= covers
        yield best


def apply(site, kind, how):
    if how is None:
        return
    for name in site.state_files():
        if name == kind or name.startswith(kind + "/"):
            site.break_file(name, site.random.randrange(len(site.generations)) if how == "older" else how)


def next_runs(site, what, independent=True):
    """The next backup is right, and the one after it has nothing to read or to store."""
    backup, summary = site.create()
    site.judge(backup, independent)
    again, second = site.create()
    assert second["read_bytes"] == 0 and second["new_bytes"] < cachesite.SLACK, (what, second)
    return summary


SAYS = [
    ("index.db", "gone", "made again from"),
    ("index.db", "short", "made again from"),
    ("index.db", "garbage", "made again from"),
    ("index.db", 0, "made again from"),
    ("index.db", "newest", "made again from"),
    ("base/app", "gone", "there is no base state"),
    ("base/app", "garbage", "base state of service app is damaged"),
    ("base/app", "short", "base state of service app is damaged"),
    ("base/app", 1, "the index does not vouch for the base state"),  # of a backup that is deleted
    ("base/app.databases", "short", "database states of service app are damaged"),
    ("damaged-packs.json", "garbage", "list of damaged packs cannot be read"),
    ("repository.json", "short", "repository.json cannot be read"),
    ("hot", "garbage", "is damaged; it is removed"),
    ("hot", "gone", "left by a run that did not end"),
    ("hot", 0, "is not there any more"),
]


def test_says_so(site):
    """Alone, each is put right by the next run, which says what it found and reads what it must, no more."""
    history(site)
    for kind, how, words in SAYS:
        if kind == "damaged-packs.json":
            with open(os.path.join(site.machine.worker_state, kind), "w") as f:
                f.write('{"packs":[]}')
        before = len(site.log())
        for name in site.state_files():
            if name == kind or name.startswith(kind + "/"):
                site.break_file(name, len(site.generations) - 1 if how == "newest" else how)
        if (kind, how) == ("hot", 0):
            site.put_back_directory("hot", 0)
        summary = site.create()[1]
        assert words in site.log()[before:], (kind, how, site.log()[before:])
        assert summary["new_bytes"] < cachesite.SLACK, (kind, how, summary)
        if kind.startswith(("index", "hot", "damaged", "repository")):
            assert summary["read_bytes"] == 0, (kind, how, summary)
        before = len(site.log())
        backup, summary = site.create()
        assert summary["read_bytes"] == 0
        assert words not in site.log()[before:], "said once, and then put right"
        row = next(m["backup"] for m in site.done("maintain", "reconcile").of_type("backup")
                   if m["backup"]["backup_id"] == backup)
        assert row["copies"] == ["hot", "local"]
    site.judge(backup)


def test_verification_notes(site):
    backup = site.create()[0]
    site.done("maintain", "verify", backup_id=backup, depth="data")
    site.break_file("verified/%s.json" % backup, "short")
    for words in ("it counts as not verified", None):
        before = len(site.log())
        row = site.done("maintain", "reconcile").of_type("backup")[0]["backup"]
        assert row["verified_at"] == ""
        assert words is None or words in site.log()[before:]
    assert "it counts" not in site.log()[before:]


def test_unmounted_repository_with_a_damaged_note(site):
    """The bare mount point must not become a new repository because what was noted of the old one is unreadable."""
    site.create()
    away = site.machine.repository + ".away"
    for how in ("short", "empty", "garbage"):
        site.break_file("repository.json", how)
        os.rename(site.machine.repository, away)
        answer = site.ask("backup", "create", backup_id=str(uuid.uuid4()), backup_name="", backup_type="app",
                          description="", created_by="uid:0", schedule="", services=["app"])
        assert (answer.result, answer.error) == ("failed", "SourceMissing"), answer
        os.rename(away, site.machine.repository)
        site.create()


def test_all_pairs(site):
    history(site)
    rows = list(rows_of_all_pairs(random.Random(SEED)))
    print(len(rows), "rows")
    for n, row in enumerate(rows):
        what = list(zip(KINDS, row))
        print(what)
        if n % 3 == 0:  # a log of the index is only there after a kill
            site.change()
            site.killed("stored")
        for kind, how in what:
            apply(site, kind, how)
        if n % 2:
            site.change()
        next_runs(site, what, independent=n % 8 == 0)
        if n % 6 == 5:
            site.remember()
    site.judge_all()


def test_rolled_back(site):
    """The repository, the worker's state, or both are put back to another day; the data is today's."""
    backups = history(site)
    days = range(len(site.generations))
    for day in (0, 1, 3):
        for what in (["repository"], ["state"], ["repository", "state"]):
            site.change()
            for one in what:
                site.roll_back(one, day)
            summary = next_runs(site, (what, day))
            if what != ["repository"]:
                assert summary["read_bytes"] < 6 << 20, summary
            site.judge_all()
            site.remember()
    # Each of another day than the other, and the base of a third.
    for _ in range(6):
        site.change()
        repository, state, base = (site.random.choice(days) for _ in range(3))
        site.roll_back("repository", repository)
        site.roll_back("state", state)
        for name in ("base/app", "base/app.databases"):
            site.break_file(name, base)
        next_runs(site, (repository, state, base))
        site.judge_all()
    assert backups


def test_any_order(site):
    """Changes, kills, prunes, deletions and lies of every kind, in any order."""
    history(site)
    rng, log = site.random, []

    def lie():
        for name in rng.sample(site.state_files(), rng.randint(1, 3)):
            how = rng.choice(("gone", "short", "empty", "garbage", rng.randrange(len(site.generations))))
            log.append((name, how))
            site.break_file(name, how)

    def kill():
        site.change()
        log.append(rng.choice(("stored", "packs-finished", "packs-durable", "before-record", "committed", "walk@20")))
        site.killed(log[-1])

    def kill_prune():
        log.append(rng.choice(("marked", "condemned", "rows-forgotten", "pack-unlinked")))
        site.killed(log[-1], "maintain", "prune", dry_run=False)

    def delete():
        if len(site.records()) > 1:
            site.done("maintain", "delete", backup_id=rng.choice(sorted(site.records())))

    def roll_back():
        day = rng.randrange(len(site.generations))
        what = rng.choice((["repository"], ["state"], ["repository", "state"]))
        log.append((what, day))
        for one in what:
            site.roll_back(one, day)

    def prune():
        site.done("maintain", "prune", dry_run=False)

    acts = ((site.change, 20), (lie, 30), (kill, 8), (kill_prune, 4), (delete, 6), (prune, 8), (roll_back, 4),
            (site.remember, 6), (lambda: site.create(), 10), (site.judge_all, 4))
    for _ in range(STEPS):
        for act in rng.choices([a for a, _ in acts], [w for _, w in acts], k=rng.randint(1, 4)):
            log.append(getattr(act, "__name__", ""))
            act()
        next_runs(site, log[-20:], independent=rng.random() < 0.3)
    site.judge_all()
