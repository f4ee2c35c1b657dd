"""A clock of the workers' own, which a test sets: libfaketime, and only real time is changed."""

import os

LIBRARY = "/usr/lib/%s/faketime/libfaketime.so.1" % os.uname().machine.replace("amd64", "x86_64")


def library():
    return LIBRARY if os.path.exists(LIBRARY) else "/usr/lib/%s-linux-gnu/faketime/libfaketime.so.1" % os.uname().machine


class FakeClock:
    """Before the machine's workers are started. Time goes on from where it is set."""

    def __init__(self, machine):
        self.path = os.path.join(machine.directory, "clock")
        self.set(0)
        machine.workers.environment.update(
            LD_PRELOAD=library(), FAKETIME_TIMESTAMP_FILE=self.path, FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1", NO_FAKE_STAT="1",
            FAKETIME_FLSHOOK="0")

    def set(self, days):
        """So many days from now, or before it."""
        with open(self.path + ".new", "w") as f:
            f.write("%+d\n" % round(days * 86400))
        os.rename(self.path + ".new", self.path)


def is_possible():
    """A sanitizer's runtime must be the first library of a program: nothing can come before it."""
    return "ASAN_OPTIONS" not in os.environ
