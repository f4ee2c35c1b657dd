"""How much memory our processes take together, at its peak: agent, workers and helpers."""

import contextlib
import os
import threading

import sites

LIMIT_MIB = 64
NAMES = ("holdpointd", "holdpoint-worker", "holdpoint-sqlite")
PAGE = os.sysconf("SC_PAGESIZE")


def is_measurable():
    """Sanitizers keep shadows of all memory: then there is nothing to compare with."""
    return "ASAN_OPTIONS" not in os.environ


def resident(pid):
    try:
        with open("/proc/%d/statm" % pid) as f:
            return int(f.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


class Peak:
    """Looks every 20 ms while it is open; `mib` is the most that was seen at once."""

    def __init__(self, machine):
        self.machine, self.bytes, self.over = machine, 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _look(self):
        pids = [p for p in self.machine.workers.pids() if any(n in sites.command(p) for n in NAMES[1:])]
        self.bytes = max(self.bytes, sum(map(resident, pids + [self.machine.agent.process.pid])))

    def _watch(self):
        while not self.over.wait(0.02):
            with contextlib.suppress(OSError):
                self._look()

    @property
    def mib(self):
        return self.bytes / (1 << 20)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.thread.join()
