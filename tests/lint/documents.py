#!/usr/bin/python3
"""What the code has must stand in the manual: D-Bus members, errors, verbs, options, configuration keys.
And what the pages name must be in the tree.
"""

import os
import re
import subprocess
import sys

import errors
import tree

MANUAL = "docs/man"
MEMBER = re.compile(r"\b(?:SD_BUS_)?(?:METHOD|PROPERTY|SIGNAL|WRITABLE_PROPERTY|UNSUPPORTED)\w*\(\s*\"([A-Z]\w+)\"")
ERROR = re.compile(r"X\(\s*FAIL_\w+,\s*\"(\w+)\"")
NAMED = re.compile(r"(?:%s|units|docs|tests)/[\w./-]*\w" % "|".join(tree.FOLDERS))
PAGES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md", "NEWS.md")
RULE = re.compile(r"\"([A-Z]\w+)\",\s*\"([A-Z]\w+)\"")
PHASE = re.compile(r"work_phase\([^,;]+,\s*\"(\w+)\"\)")
OPTION = re.compile(r"\{\s*OPTION_\w+,\s*\"([a-z][a-z-]+)\"")


def page(name):
    path = os.path.join(MANUAL, name)
    return tree.text(path).replace("\\", "") if os.path.exists(os.path.join(tree.TOP, path)) else ""


def missing(words, name, kind):
    if not words:
        return ["no %s found in the code: this check looks in the wrong place" % kind]
    text = page(name)
    return ["%s '%s' does not stand in %s/%s" % (kind, w, MANUAL, name)
            for w in sorted(set(words)) if not re.search(r"(?<![\w-])%s(?![\w])" % re.escape(w), text)]


def members():
    return [m for path in tree.files(".c", below=("agent",)) for m in MEMBER.findall(tree.text(path))]


def verbs(programs):
    """From the help of the built program: lines that begin with a verb."""
    out = subprocess.run([os.path.join(programs, "usr/bin/holdpoint"), "--help"], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, check=True, timeout=20).stdout
    return re.findall(r"^  ([a-z]+)\b", out, re.M)


def options():
    return ["--" + o for path in tree.files(".c", below=("cli",)) for o in OPTION.findall(tree.text(path))]


def keys():
    """Section.Key as the table of base/config-rules.c names them."""
    return RULE.findall(tree.text("base/config-rules.c"))


def check_keys():
    """Each stands below the heading of its section."""
    wanted = keys()
    if len(wanted) < 2:
        return ["no key found in the code: this check looks in the wrong place"]
    sections = dict(re.findall(r"^# \[?(\w+)\]?\n(.*?)(?=^# )", page("holdpoint.conf.5.scd"), re.M | re.S))
    sections["Service"] = sections.get("SERVICES", "")
    return ["key '%s' does not stand in section %s of %s/holdpoint.conf.5.scd" % (key, section, MANUAL)
            for section, key in wanted if "*%s=*" % key not in sections.get(section, "")]


def check_phases(text):
    """The phases that workers say, and those that a page tells of, are the same."""
    said = {p for path in tree.files(".c", below=("worker",)) for p in PHASE.findall(tree.text(path))}
    told = re.search(r"^Phases, .*?\n\n", text, re.M | re.S)
    told = {w for quoted in re.findall(r"`([^`]+)`", told.group(0) if told else "") for w in quoted.split() if w.islower()}
    return ["phase '%s' is %s" % (p, "not in docs/DBUS.md" if p in said else "in docs/DBUS.md alone") for p in sorted(said ^ told)]


def named(text):
    """Files and folders of the tree that a page names in backquotes."""
    words = {w for quoted in re.findall(r"`([^`\n]+)`", text) for w in quoted.split()}
    return {w for w in words if NAMED.fullmatch(w) and "NAME" not in w and "NNNN" not in w}


def check_named():
    pages = [p for p in tree.files(".md") if p in PAGES or os.path.dirname(p) == "docs"]
    return ["%s names %s, which is not there" % (p, n) for p in pages for n in sorted(named(tree.text(p)))
            if not os.path.exists(os.path.join(tree.TOP, n))]


def check_completion(words):
    text = tree.text("units/holdpoint.bash")
    return ["'%s' is not completed by units/holdpoint.bash" % w for w in sorted(set(words))
            if not re.search(r"(?<![\w-])%s(?![\w-])" % re.escape(w), text)]


def check(programs=None):
    programs = programs or os.environ.get("HOLDPOINT_TREE") or os.path.join(tree.TOP, "build", "tree")
    return (missing(members(), "org.holdpoint.Backup1.5.scd", "D-Bus member") +
            missing(ERROR.findall(tree.text("base/fail.h")), "org.holdpoint.Backup1.5.scd", "error") +
            missing(verbs(programs), "holdpoint.1.scd", "verb") +
            missing(options(), "holdpoint.1.scd", "option") +
            check_keys() + check_phases(tree.text("docs/DBUS.md")) +
            check_completion(verbs(programs) + options()) + errors.check() + check_named())


if __name__ == "__main__":
    result = check(*sys.argv[1:2])
    print("\n".join(result))
    sys.exit(1 if result else 0)
