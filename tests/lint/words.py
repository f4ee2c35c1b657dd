#!/usr/bin/python3
"""Words that must not stand in the tree: promises left in the code, and paths of somebody's machine."""

import re
import sys

import tree

PROMISES = re.compile(r"\b(TODO|FIXME|XXX|HACK|holdpoint_stub_\w+)\b|(?<![\w-])(not|un)[ -]?implemented\b")
MACHINES = re.compile(r"(?<![\w.])/(work|farm)/|/home/\w+|/root/\w+|/tmp/b-")
LOOKED_AT = (".c", ".h", ".py", ".sh", ".build", ".md", ".scd", ".conf", ".sql", ".txt", "run", "meson_options.txt")


def check():
    problems = []
    for path in tree.files(*LOOKED_AT):
        if path.endswith("words.py"):
            continue
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            for pattern in (PROMISES, MACHINES):
                found = pattern.search(line)
                if found:
                    problems.append("%s:%d: %s" % (path, number, found.group(0)))
    return problems


if __name__ == "__main__":
    result = check()
    print("\n".join(result))
    sys.exit(1 if result else 0)
