"""One service on btrfs, workers asked past the agent, and copies of everything at every backup: what is cached
may come back from any of them."""

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import uuid

import holdpoint
import read_repo
import worker

INDEX = ("index.db", "index.db-wal", "index.db-shm")
SLACK = 64 << 10  # a manifest, a record and a session, whatever else a backup stores


class Site:
    def __init__(self, machine, fs, seed):
        self.machine, self.random, self.generations = machine, random.Random(seed), []
        self.data, self.out = fs.subvolume("data"), os.path.join(fs.path, "out")
        self.keep = os.path.join(machine.directory, "generations")
        os.mkdir(self.keep)
        os.mkdir(self.out)
        machine.write_config("PackSizeMiB=1\n[Hot]\nKeep=2\n")
        machine.write_service("app", self.data)
        os.mkdir(os.path.join(self.data, "files"))
        for i in range(24):
            self.write(i)
        for name in ("rolled.db", "logged.db"):
            with self.database(name) as db:
                db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)")
        # This one stays open: its log is never gone, as with a service that runs.
        self.open_db = sqlite3.connect(os.path.join(self.data, "logged.db"), isolation_level=None)
        self.open_db.execute("PRAGMA journal_mode=WAL")
        self.open_db.execute("PRAGMA wal_autocheckpoint=20")
        self.change()
        for name in ("backup", "restore", "maintain"):
            machine.workers.start(name)

    def close(self):
        self.open_db.close()

    # --- the data -------------------------------------------------------------------------------------

    def path(self, *names):
        return os.path.join(self.data, *names)

    @contextlib.contextmanager
    def database(self, name):
        with contextlib.closing(sqlite3.connect(self.path(name), isolation_level=None)) as db:
            yield db

    def write(self, i):
        """The same size every time, now and then in place: only the time of the change tells it."""
        size = (400, 3000, 70000, 300000)[i % 4]
        name, content = self.path("files", "f%02d" % i), self.random.randbytes(size)
        if os.path.exists(name) and self.random.random() < 0.5:
            with open(name, "r+b") as f:
                f.write(content)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            with open(name, "wb") as f:
                f.write(content)
        if self.random.random() < 0.5:  # as rsync or an unpacked archive leaves it
            os.utime(name, ns=(10 ** 18, 10 ** 18))

    def change(self):
        for i in self.random.sample(range(24), 3):
            self.write(i)
        row = (self.random.randrange(6), self.random.randbytes(20000))
        with self.database("rolled.db") as db:
            db.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", row)
        self.open_db.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", row)

    # --- jobs -----------------------------------------------------------------------------------------

    def ask(self, worker_class, verb, fds=(), **members):
        answer = worker.ask(self.machine, worker_class, verb, fds, timeout=120, **members)
        return answer

    def done(self, *arguments, **members):
        answer = self.ask(*arguments, **members)
        assert answer.result == "done", answer
        return answer

    def create(self):
        """(id, summary) of a backup."""
        backup = str(uuid.uuid4())
        subprocess.run(["sleep", "0.025"], check=True)  # what changed just before an instant is read again
        answer = self.done("backup", "create", backup_id=backup, backup_name=backup, backup_type="app", description="",
                           created_by="uid:0", schedule="", services=["app"])
        return backup, answer.summary

    def killed(self, step, worker_class="backup", verb="create", **members):
        """Such a job, killed at that step, if it comes to it."""
        self.machine.workers.restart(worker_class, HOLDPOINT_STEP=step + "=kill")
        with contextlib.suppress(worker.Lost):
            if verb == "create":
                self.create()
            else:
                self.ask(worker_class, verb, **members)
        self.machine.workers.restart(worker_class)

    def records(self):
        return os.listdir(os.path.join(self.machine.repository, "backups"))

    # --- copies ---------------------------------------------------------------------------------------

    def remember(self):
        """Copies state and repository as they are now."""
        top = os.path.join(self.keep, str(len(self.generations)))
        shutil.copytree(self.machine.worker_state, os.path.join(top, "state"))
        shutil.copytree(self.machine.repository, os.path.join(top, "repository"))
        self.generations.append(top)

    def roll_back(self, what, generation):
        """Puts the whole state or repository of a generation in the place of today's."""
        live = {"state": self.machine.worker_state, "repository": self.machine.repository}[what]
        shutil.rmtree(live)
        shutil.copytree(os.path.join(self.generations[generation], what), live)
        os.chmod(live, 0o700)

    def put_back_directory(self, name, generation):
        source = os.path.join(self.generations[generation], "state", name)
        shutil.copytree(source, os.path.join(self.machine.worker_state, name), dirs_exist_ok=True)

    def state_files(self):
        """Everything in the worker's state that is a cache."""
        found = list(INDEX) + ["base/app", "base/app.databases", "damaged-packs.json", "repository.json"]
        for directory in ("hot", "verified"):
            top = os.path.join(self.machine.worker_state, directory)
            if os.path.isdir(top):
                found += [directory + "/" + n for n in sorted(os.listdir(top))]
        return found

    def break_file(self, name, how):
        """`how`: gone, short, garbage, empty, or the number of the generation that it comes from."""
        path = os.path.join(self.machine.worker_state, name)
        if isinstance(how, int):
            source = os.path.join(self.generations[how], "state", name)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            if os.path.exists(source):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.copy2(source, path)
            return
        if not os.path.exists(path):
            return
        size = os.path.getsize(path)
        if how == "gone":
            os.unlink(path)
        elif how == "short":
            os.truncate(path, size // 2)
        elif how == "empty":
            os.truncate(path, 0)
        else:
            with open(path, "r+b") as f:
                f.seek(size // 3)
                f.write(self.random.randbytes(min(600, size - size // 3)))

    # --- judgement ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def restored(self, backup, source="local"):
        shutil.rmtree(self.out)
        os.mkdir(self.out)
        fd = os.open(self.out, os.O_RDONLY | os.O_DIRECTORY)
        try:
            answer = worker.ask(self.machine, "restore", "restore", [fd], restore_id=str(uuid.uuid4()), timeout=120,
                                backup_id=backup, restore_type="app", paths=[], allow_partial=False, into=True,
                                **{"from": source})
        finally:
            os.close(fd)
        assert answer.result == "done", answer
        yield os.path.join(self.out, "app" + self.data)

    def compare(self, top, attributes=True):
        """Live data and a copy. The open database is compared by what is in it: a backup has no log beside it."""
        flags = "-aHAXn" if attributes else "-rlpn"
        done = subprocess.run(["rsync", flags, "--checksum", "--delete", "--itemize-changes", "--exclude=.holdpoint",
                               "--exclude=logged.db*", self.data + "/", top + "/"], capture_output=True, text=True)
        # The log of the open database comes and goes: only its directory shows that.
        wrong = [line for line in done.stdout.splitlines() if not line.startswith(".d") or not line.endswith(" ./")]
        assert done.returncode == 0 and not wrong, done.stdout + done.stderr
        with contextlib.closing(sqlite3.connect(os.path.join(top, "logged.db"))) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            query = "SELECT n, x FROM t ORDER BY n"
            assert copy.execute(query).fetchall() == self.open_db.execute(query).fetchall(), "logged.db differs"

    def read(self, backup):
        """Through the independent reader."""
        output = os.path.join(self.machine.directory, "read")
        shutil.rmtree(output, ignore_errors=True)
        os.mkdir(output)
        read_repo.restore(self.machine.repository, os.path.join(self.machine.etc, "keys", "private.pem"), backup,
                          output, False)
        return os.path.join(output, "app" + self.data)

    def judge(self, backup, independent=True):
        """The backup just made is what is live now, to everybody who can read it."""
        with self.restored(backup) as top:
            self.compare(top)
        self.done("maintain", "verify", backup_id=backup, depth="data")
        if independent:
            self.compare(self.read(backup), attributes=False)

    def judge_all(self):
        """Nothing that the repository lists has lost anything."""
        for backup in self.records():
            self.done("maintain", "verify", backup_id=backup, depth="data")

    def log(self):
        with open(self.machine.worker_log, errors="replace") as f:
            return f.read()


@contextlib.contextmanager
def open_site(install, seed=1):
    with holdpoint.LoopFs("btrfs", 1024) as fs, holdpoint.Machine(install) as machine:
        with contextlib.closing(Site(machine, fs, seed)) as site:
            yield site
