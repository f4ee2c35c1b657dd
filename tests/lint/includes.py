#!/usr/bin/python3
"""Who may include what: the table of docs/ARCHITECTURE.md, and one place per library.

The level-1 folders do not know each other; only worker/ joins them. A library's header is included where
the library is wrapped, so that it can be replaced, and its errors translated, in one place.
"""

import os
import re
import sys

import tree

FOLDERS = {
    "base": {"base"},
    "snapshot": {"base", "snapshot"},
    "archive": {"base", "archive"},
    "repo": {"base", "repo", "sql/db.h", "sql/migrate.h"},
    "sql": {"base", "sql"},
    "worker": {"base", "snapshot", "archive", "repo", "worker"},
    "agent": {"base", "sql", "agent"},
    "cli": {"base", "cli"},
}

# A header of a library, as a pattern, and where it may be included (patterns of paths).
LIBRARIES = (
    (r"btrfsutil\.h", r"snapshot/btrfs\.c"),
    (r"lvm2cmd\.h", r"snapshot/lvm-helper\.c"),
    (r"archive(_entry)?\.h", r"archive/arc-(tar|untar|acl)\.[ch]"),
    (r"openssl/.*", r"repo/crypto\.c"),
    (r"(zstd|zstd_errors)\.h", r"repo/compress\.c"),
    (r"sqlite3\.h", r"sql/(db|sqlite-helper|helper-[a-z]+)\.c|sql/helper\.h"),
    (r"systemd/sd-journal\.h", r"base/log\.c"),
    (r"systemd/sd-event\.h", r"agent/.*"),
    (r"systemd/sd-daemon\.h", r"agent/.*|worker/work\.c"),
    (r"systemd/sd-bus.*\.h", r"agent/.*|cli/client\.[ch]|worker/systemd\.c"),
    (r"ini\.h", r"base/settings\.c"),
    (r"libmount/.*|blkid/.*", r"snapshot/mount\.c"),
    (r"libsmartcols/.*", r"cli/output\.c"),
    (r"pthread\.h", r"repo/(pipeline|ingest)\.[ch]|worker/point\.c"),
)

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.M)


def check_own(path, folder, target):
    """One `#include "…"` of a file in `folder`; folder None: tests, which may use everything."""
    first = target.split("/")[0]
    if "/" not in target or (first not in FOLDERS and first != "tests"):
        return "%s: \"%s\" is not written from the top of the tree" % (path, target)
    if not os.path.exists(os.path.join(tree.TOP, target)) and not target.startswith("sql/"):
        return "%s: \"%s\" does not exist" % (path, target)
    if folder and first not in FOLDERS[folder] and target not in FOLDERS[folder]:
        return "%s: %s/ may not use \"%s\"" % (path, folder, target)
    return None


def check_library(path, target):
    for header, places in LIBRARIES:
        if re.fullmatch(header, target) and not re.fullmatch(places, path):
            return "%s: <%s> belongs to %s" % (path, target, places)
    return None


def check():
    problems = []
    for path in tree.files(".c", ".h"):
        folder = path.split(os.sep)[0]
        folder = folder if folder in FOLDERS else None
        for kind, target in INCLUDE.findall(tree.text(path)):
            found = check_own(path, folder, target) if kind == '"' else (check_library(path, target) if folder else None)
            if found:
                problems.append(found)
    return problems


if __name__ == "__main__":
    found = check()
    print("\n".join(found))
    sys.exit(1 if found else 0)
