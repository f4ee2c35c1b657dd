#!/usr/bin/python3
"""Names that would collide, and state that would be shared.

Two headers of one base name, or one named like libc's, get mixed up sooner or later. Mutable variables at
file scope are looked for in the object files of a build, where nothing can hide them.
"""

import glob
import os
import re
import subprocess
import sys

import tree

# What a process has one of by nature (docs/ARCHITECTURE.md).
ALLOWED_STATE = {("base", "log_state")}
LIBC = "/usr/include"


def check_headers():
    seen, problems = {}, []
    for path in tree.files(".h"):
        name = os.path.basename(path)
        if name in seen:
            problems.append("%s and %s have the same name" % (seen[name], path))
        seen[name] = path
        if os.path.exists(os.path.join(LIBC, name)) and path.split(os.sep)[0] in tree.FOLDERS:
            problems.append("%s is named like a system header" % path)
    return problems


def check_state(build):
    """Objects in .data and .bss; constants with relocations are in .data.rel.ro, which is not writable."""
    problems, objects = [], []
    for folder in tree.FOLDERS:
        objects += [(folder, o) for o in glob.glob(os.path.join(build, folder, "**", "*.o"), recursive=True)]
    if not objects:
        return ["%s holds no object files: build first" % build]
    for folder, path in objects:
        table = subprocess.run(["objdump", "-t", path], capture_output=True, text=True, check=True).stdout
        for line in table.splitlines():
            found = re.match(r"\S+ .{6}O (\.data|\.bss|\.tdata|\.tbss|\*COM\*)(\S*)\s+\S+\s+(?:\.hidden )?(\S+)", line)
            if not found or found.group(2).startswith(".rel.ro"):
                continue
            if (folder, found.group(3)) not in ALLOWED_STATE:
                problems.append("%s: mutable variable %s" % (os.path.relpath(path, build), found.group(3)))
    return problems


def check(build=None):
    return check_headers() + check_state(build or os.path.join(tree.TOP, "build"))


if __name__ == "__main__":
    result = check(*sys.argv[1:2])
    print("\n".join(result))
    sys.exit(1 if result else 0)
