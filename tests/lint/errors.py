#!/usr/bin/python3
"""docs/ERRORS.md is made from the list in base/fail.h; this makes it (--write) and checks that it is current."""

import os
import re
import sys

import tree

PAGE = "docs/ERRORS.md"
CODE = re.compile(r"X\((FAIL_\w+),\s*\"(\w+)\",\s*(\d+),\s*\"([^\"]*)\"\)")

# What the list has no room for: when it happens, and what to do. Each code must be here.
ADVICE = {
    "Internal": "A bug, or a system call that should not fail; the message and the journal say more. Workers that cannot be "
                "reached come as this, too.",
    "NoSuchBackup": "`holdpoint list` shows what there is. A record that was removed from the repository by hand goes from the "
                    "list with the agent's next start.",
    "NoSuchService": "No `services.d/NAME.conf`, or the backup does not hold this service.",
    "NoSuchJob": "Also: it has finished, or is no longer remembered.",
    "NoSuchRestore": "`holdpoint restores` shows what there is.",
    "NoSuchSchedule": "No schedule has this name; `holdpoint schedule` lists them.",
    "InvalidArgument": "A malformed id, an unknown option, a value out of range: the message names it.",
    "ConfigurationInvalid": "The message is `file:line: what, and what is allowed`. `holdpointd --check-config` says the same.",
    "NotConfirmed": "A restore replaces live data: `confirm` must be true on the bus; `--yes` or an answer on the command line.",
    "Busy": "Another job works on the same service or uses the same backup: wait for it, or cancel it. Or a job is too near to its end to be canceled.",
    "QueueFull": "`MaxQueuedJobs=` or `MaxQueuedJobsPerUser=` is reached: try later.",
    "HoldTimeout": "With `OnTimeout=fail`: a writer kept its lock longer than `LockTimeoutMSec=`. Nothing was changed.",
    "SnapshotFailed": "The file system refused, or the path has none of the kind that `Snapshot=` asks for, or a subvolume "
                      "lies inside the service.",
    "SnapshotFull": "The file system ran full while the snapshot was made; or LVM had no room for it: none left in the volume "
                    "group, a thin pool that is too full, or a snapshot that ran full while it was read. `lvextend` makes room.",
    "NoSpace": "The repository's or the service's file system is full. Make room there; `holdpoint confirm` removes the tree "
               "that a restore replaced.",
    "SourceMissing": "A `Path=` does not exist or a file could not be read, or what stands beside a database as its side file is "
                     "none. The backup is *partial* if others could be. Also: the repository is gone (is its file system "
                     "mounted?), a path is not in the backup, a file to import cannot be read.",
    "IntegrityFailure": "A byte of the repository, or a database, is not what was stored. `holdpoint verify` names the objects; "
                        "older backups that do not use them are still good.",
    "KeyMissing": "The content of a backup needs the private key, and `keys/` in the configuration directory lacks it.",
    "NotRestorable": "Another way may exist, and the message names it: extract aside with `--into`, accept a partial backup "
                     "with `--allow-partial`, or use the repository's own keys.",
    "TargetInUse": "A process or mount holds the data to be exchanged, or a unit does not stop; the message names it: stop it "
                   "first. With `--into`: what would be made is there already.",
    "Canceled": "On request. Nothing is left half done.",
    "Interrupted": "The worker or the agent went away. What it left is finished or undone by the next restore or by "
                   "`holdpoint-worker --recover`; a backup without its record never was. Also: whoever reads a stream, or sends "
                   "an archive or a key, was silent for a minute.",
}

HEAD = """# Errors

Made from `base/fail.h` by `tests/lint/errors.py --write`; the lint suite checks that it is current.

On the bus an error is `org.holdpoint.Backup1.Error.NAME`.
With `--json` the command line prints `{"error": {"name": NAME, "message": …}}`, and exits with the code given here; of a job that
was partial NAME is `Partial`, the exit code 3, and the job's own error says what was lacking. Other names are the last word of a standard error.
An error that ends a job stands in the job's `error_name` and `error_message`; the exit code is the same.

| name | exit | meaning | when, and what to do |
|---|---|---|---|
"""

TAIL = """
Standard errors that the agent gives, too:

| name | exit | when |
|---|---|---|
| `org.freedesktop.DBus.Error.AccessDenied` | 4 | who calls may not do this |
| `org.freedesktop.DBus.Error.NotSupported` | 1 | an option that this version does not have (copies that are *remote*) |
| `org.freedesktop.DBus.Error.LimitsExceeded` | 1 | a call over 64 KiB, or too many at once |
| `org.freedesktop.DBus.Error.ServiceUnknown`, `NoReply`, … | 9 | no agent or no bus |

Exit code 3 (`Partial`) is no error of a call: the job's result was `partial`. Its `error_name` is that of the first thing that was lacking: mostly `SourceMissing` or `IntegrityFailure`.
"""


def codes():
    header = re.sub(r"\s*\\\n\s*", " ", tree.text("base/fail.h"))
    return CODE.findall(header)


def make():
    rows = ["| `%s` | %s | %s | %s |" % (name, number, text, ADVICE.get(name, "")) for _, name, number, text in codes()]
    return HEAD + "\n".join(rows) + "\n" + TAIL


def check():
    names = [name for _, name, _, _ in codes()]
    if not names:
        return ["no error found in base/fail.h: this check looks in the wrong place"]
    problems = ["%s has no advice in tests/lint/errors.py" % n for n in names if n not in ADVICE]
    problems += ["advice for '%s', which base/fail.h does not have" % n for n in ADVICE if n not in names]
    path = os.path.join(tree.TOP, PAGE)
    if not os.path.exists(path) or tree.text(PAGE) != make():
        problems.append("%s is not current: run tests/lint/errors.py --write" % PAGE)
    return problems


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        with open(os.path.join(tree.TOP, PAGE), "w", encoding="utf-8") as f:
            f.write(make())
    result = check()
    print("\n".join(result))
    sys.exit(1 if result else 0)
