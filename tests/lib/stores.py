"""Writers whose order can be read off afterwards: the oracle for "one instant".

A *store* is a database and a directory of files. Under one counter the stores take turns: each first
writes file N (under a temporary name, then renamed; its content says N), then commits row N. So at any
instant, going round from the first store, the sequence

    newest file of store 1, newest row of store 1, newest file of store 2, newest row of store 2, …

never rises and falls by one at most. An image that breaks this was not taken at one instant. Each store
is written by a process of its own, as the store's owner; a token goes from one to the next through pipes.
"""

import array
import contextlib
import ctypes
import mmap
import os
import signal
import sqlite3
import struct
import time

PR_SET_PDEATHSIG = 1


class Store:
    """One database and one directory of files below `root`, both belonging to `uid`."""

    def __init__(self, name, root, uid=0, journal="wal", database="store.db", files="files", table="written",
                 pattern="%09d", content=lambda n: b"%d\n" % n):
        self.name, self.root, self.uid, self.journal = name, root, uid, journal
        self.database, self.files = os.path.join(root, database), os.path.join(root, files)
        self.table, self.pattern, self.content = table, pattern, content

    def at(self, root):
        """The same store below another root: a restored or snapshotted copy."""
        copy = Store(self.name, root, self.uid, self.journal, table=self.table, pattern=self.pattern,
                     content=self.content)
        copy.database = os.path.join(root, os.path.relpath(self.database, self.root))
        copy.files = os.path.join(root, os.path.relpath(self.files, self.root))
        return copy

    def create(self):
        """Makes what is missing; database, files and their directories belong to the owner."""
        os.makedirs(self.files, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=" + self.journal).fetchone()
            db.execute("CREATE TABLE IF NOT EXISTS %s (n INTEGER PRIMARY KEY, file TEXT NOT NULL)" % self.table)
            db.execute("CREATE TABLE IF NOT EXISTS noise (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        for path in (self.root, self.files, os.path.dirname(self.database), self.database):
            os.chown(path, self.uid, self.uid)
        return self

    def file_name(self, n):
        return self.pattern % n

    def numbers(self):
        """The numbers of the files there are."""
        prefix, suffix = self.pattern.split("%09d")
        found = []
        for name in os.listdir(self.files):
            middle = name[len(prefix):len(name) - len(suffix)]
            if name.startswith(prefix) and name.endswith(suffix) and middle.isdigit():
                found.append(int(middle))
        return found

    def state(self):
        """(newest row, newest file); raises when the file that the newest row names is not whole.

        The file after it may be caught half written: no row names it yet.
        """
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as db:
            row = db.execute("SELECT coalesce(max(n), 0) FROM " + self.table).fetchone()[0]
        newest = max(self.numbers(), default=0)
        path = os.path.join(self.files, self.file_name(row))
        if row and os.path.exists(path):
            with open(path, "rb") as f:
                if f.read() != self.content(row):
                    raise AssertionError("%s: file %d does not hold its own number" % (self.name, row))
        return row, newest

    def disagreements(self):
        """Rows without their file, and files without their row but the one being written and those being dropped."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as db:
            rows = dict(db.execute("SELECT n, file FROM " + self.table))
        files = set(self.numbers())
        newest, oldest = max(rows, default=0), min(rows, default=0)
        missing = ["row %d names %s, which is missing" % (n, name) for n, name in rows.items() if n not in files]
        extra = ["file %d has no row" % n for n in files - rows.keys() if oldest < n != newest + 1]
        return missing + extra


def judge(states):
    """What is wrong with a sequence of (row, file) of consecutive stores; None when it is one instant."""
    sequence = [value for row, newest in states for value in (newest, row)]
    for before, after in zip(sequence, sequence[1:]):
        if after > before:
            return "rises from %d to %d in %s" % (before, after, sequence)
    if sequence[0] - sequence[-1] > 1:
        return "spans %d in %s" % (sequence[0] - sequence[-1], sequence)
    return None


class Ring:
    """Writes to all stores in turn, at full speed or with `rate` rounds a second.

    `busy_msec` is the applications' busy timeout; `noise` adds one more writer per store that commits
    to another table without turns; `keep` bounds rows and files of each store (0: keeps all).
    """

    def __init__(self, stores, busy_msec=10000, rate=None, noise=False, keep=64):
        self.stores, self.busy_msec, self.rate, self.noise = stores, busy_msec, rate, noise
        self.keep = keep
        self.shared = None  # byte 0: stop; then one counter of eight bytes per store
        self.children, self.logs = [], []

    # --- in the child ---------------------------------------------------------------------------------

    def _stopped(self):
        return self.shared[0] != 0

    def _write_file(self, store, n):
        final = os.path.join(store.files, store.file_name(n))
        temporary = os.path.join(store.files, ".new")
        with open(temporary, "wb") as f:
            f.write(store.content(n))
        os.rename(temporary, final)

    def _commit_row(self, db, store, n):
        began = time.monotonic()
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT OR REPLACE INTO %s VALUES (?, ?)" % store.table, (n, store.file_name(n)))
        if self.keep:
            db.execute("DELETE FROM %s WHERE n <= ?" % store.table, (n - self.keep,))
        db.execute("COMMIT")
        took = time.monotonic() - began
        if self.keep:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(store.files, store.file_name(n - self.keep)))
        return began, took

    def _open(self, store):
        db = sqlite3.connect(store.database, timeout=self.busy_msec / 1000, isolation_level=None)
        db.execute("PRAGMA synchronous=NORMAL" if store.journal == "wal" else "PRAGMA synchronous=FULL")
        return db

    def _take_turns(self, index, base, token_in, token_out, ready, waits):
        store, last = self.stores[index], index == len(self.stores) - 1
        db = self._open(store)
        if base:  # all stores begin at one number, whatever an earlier ring or a restore left
            self._write_file(store, base)
            self._commit_row(db, store, base)
        os.write(ready, b"+")
        os.close(ready)
        while not self._stopped():
            data = os.read(token_in, 8)
            if len(data) != 8:
                break
            n = struct.unpack("<Q", data)[0]
            began = time.monotonic()
            self._write_file(store, n)
            waits.extend(self._commit_row(db, store, n))
            struct.pack_into("<Q", self.shared, 8 * (index + 1), n)
            if last and self.rate:
                time.sleep(max(0.0, len(self.stores) / self.rate - (time.monotonic() - began)))
            try:
                os.write(token_out, struct.pack("<Q", n + 1 if last else n))
            except BrokenPipeError:
                break
        db.close()

    def _make_noise(self, index, ready, waits):
        db, parent = self._open(self.stores[index]), os.getppid()
        os.write(ready, b"+")
        os.close(ready)
        while not self._stopped() and os.getppid() == parent:
            began = time.monotonic()
            db.execute("INSERT OR REPLACE INTO noise VALUES (abs(random() % 200), hex(randomblob(200)))")
            waits.extend((began, time.monotonic() - began))
            # SQLite's waiters poll; without a gap one writer starves another, with no backup near.
            time.sleep(0.001 if self.stores[index].journal == "wal" else 0.02)
        db.close()

    def _fork(self, pipes, keep_open, function, index, *arguments):
        log = os.memfd_create("waits")
        self.logs.append(log)
        pid = os.fork()
        if pid:
            self.children.append(pid)
            return
        status = 1
        try:
            uid, waits = self.stores[index].uid, array.array("d")
            for fd in pipes - set(keep_open):
                os.close(fd)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            function(index, *arguments, waits)
            os.write(log, waits.tobytes())
            status = 0
        except BaseException as error:  # the parent reports it; nothing of it may run on in this copy
            with contextlib.suppress(OSError):
                os.write(2, ("writer of %s: %r\n" % (self.stores[index].name, error)).encode())
        finally:
            os._exit(status)

    # --- in the parent --------------------------------------------------------------------------------

    def start(self):
        base = max(value for store in self.stores for value in store.state())
        n = len(self.stores)
        self.shared = mmap.mmap(-1, 8 * (n + 1))
        tokens = [os.pipe() for _ in range(n)]
        ready_in, ready_out = os.pipe()
        pipes = {fd for pair in tokens for fd in pair} | {ready_in, ready_out}
        for i in range(n):
            gate = (tokens[i][0], tokens[(i + 1) % n][1], ready_out)
            self._fork(pipes, gate, self._take_turns, i, base, *gate)
            if self.noise:
                self._fork(pipes, (ready_out,), self._make_noise, i, ready_out)
        os.close(ready_out)
        started = 0
        while started < len(self.children):
            data = os.read(ready_in, 64)
            if not data:
                break
            started += len(data)
        os.write(tokens[0][1], struct.pack("<Q", base + 1))
        for fd in pipes - {ready_out}:
            os.close(fd)
        if started < len(self.children):
            self.close()
        return self

    def rounds(self):
        """How many rounds the last store has finished (its counter)."""
        return struct.unpack_from("<Q", self.shared, 8 * len(self.stores))[0]

    def stop(self):
        """Ends all writers between two commits; raises if one had failed (a refused or lost write)."""
        failed = 0
        if self.shared is not None:
            self.shared[0] = 1
        for pid in self.children:
            failed += os.waitpid(pid, 0)[1] != 0
        self.children = []
        if failed:
            raise RuntimeError("%d writers failed: their application would have seen an error" % failed)

    def commits(self):
        """(when it began, seconds it took) of every commit of all writers, after stop(); monotonic clock."""
        found = array.array("d")
        for log in self.logs:
            found.frombytes(os.pread(log, os.fstat(log).st_size, 0))
        return list(zip(found[0::2], found[1::2]))

    def waits(self):
        return [seconds for _, seconds in self.commits()]

    def close(self):
        try:
            self.stop()
        finally:
            for log in self.logs:
                os.close(log)
            self.logs = []

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.close()


def percentiles(values):
    """(p50, p99, max) of seconds, in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return (0.0, 0.0, 0.0)
    return tuple(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * q))] for q in (0.5, 0.99, 1.0))
