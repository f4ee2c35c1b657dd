#!/usr/bin/python3
"""Messages of the journal: base/messages.h, the texts of units/journal and the code hold each other.

Each message has one id, is said somewhere, and is explained in every language; texts name only fields that all
lines of the message have, and only verbs of the command line that there are.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

import tree

LIST = "base/messages.h"
TEXTS = "units/journal"
LANGUAGES = ("holdpoint.catalog", "holdpoint.zh_CN.catalog")
MESSAGE = re.compile(r"X\(\s*(MESSAGE_\w+),\s*\"(\w+)\",\s*LOG_(\w+)\)")
FIELD = re.compile(r"@(\w+)@")

# What every line of a message has, by the beginning of its name; journalctl shows other fields as they are.
ALWAYS = {
    "MESSAGE_JOB_": {"HOLDPOINT_JOB", "HOLDPOINT_TASK"},
    "MESSAGE_JOB_PARTIAL": {"HOLDPOINT_ERROR"},
    "MESSAGE_JOB_FAILED": {"HOLDPOINT_ERROR"},
    "MESSAGE_BACKUP_": {"HOLDPOINT_BACKUP"},
    "MESSAGE_HOLD_DEGRADED": {"HOLDPOINT_SERVICE"},
    "MESSAGE_NO_SNAPSHOT": {"HOLDPOINT_SERVICE"},
    "MESSAGE_SERVICE_": {"HOLDPOINT_SERVICE"},
    "MESSAGE_SOURCE_UNREADABLE": {"HOLDPOINT_SERVICE"},
    "MESSAGE_DATABASE_NOT_GOOD": {"HOLDPOINT_SERVICE"},
    "MESSAGE_RESTORE_": {"HOLDPOINT_RESTORE"},
    "MESSAGE_CALL_": {"HOLDPOINT_METHOD", "HOLDPOINT_ACTION"},
    "MESSAGE_CALL_GRANTED": {"HOLDPOINT_CALLER_UID"},
}


def messages():
    """[(name, id, level)] of the list."""
    return MESSAGE.findall(re.sub(r"\s*\\\n\s*", " ", tree.text(LIST)))


def entries(text):
    """[(name in the comment, id, subject, body)] of a catalogue's text."""
    found = []
    for part in re.split(r"^# (?=MESSAGE_)", text, flags=re.M)[1:]:
        lines = part.splitlines()
        head = re.fullmatch(r"-- ([0-9a-f]{32})", lines[1]) if len(lines) > 1 else None
        header, _, body = "\n".join(lines[2:]).partition("\n\n")
        subject = re.search(r"^Subject: (.+)$", header, re.M)
        found.append((lines[0].strip(), head and head.group(1), subject and subject.group(1), body.strip()))
    return found


def allowed(name):
    return set().union(*(fields for prefix, fields in ALWAYS.items() if name.startswith(prefix)))


def check_list(wanted):
    if not wanted:
        return ["no message found in %s: this check looks in the wrong place" % LIST]
    ids = [i for _, i, _ in wanted]
    problems = ["%s: '%s' is no id" % (n, i) for n, i, _ in wanted if not re.fullmatch(r"[0-9a-f]{32}", i)]
    problems += ["%s: its id is that of another message" % n for n, i, _ in wanted if ids.count(i) > 1]
    code = "\n".join(tree.text(p) for p in tree.files(".c") if p.split(os.sep)[0] in tree.FOLDERS)
    return problems + ["%s is never said" % n for n, _, _ in wanted if not re.search(r"\b%s\b" % n, code)]


def check_texts(name, text, wanted, verbs):
    have = entries(text)
    ids = {n: i for n, i, _ in wanted}
    problems = ["%s: no text for %s" % (name, n) for n in ids if n not in [h[0] for h in have]]
    if len(re.findall(r"^-- ", text, re.M)) != len(have):
        problems.append("%s: an entry without the name of its message in a comment before it" % name)
    for message, identifier, subject, body in have:
        where = "%s: %s" % (name, message)
        if ids.get(message) != identifier:
            problems.append("%s: %s is not its id in %s" % (where, identifier, LIST))
        if not subject or len(body) < 10:
            problems.append("%s: no subject or no text" % where)
        problems += ["%s: not every such line has %s" % (where, f) for f in FIELD.findall("%s\n%s" % (subject, body))
                     if f not in allowed(message)]
        problems += ["%s: 'holdpoint %s' is no command" % (where, v)
                     for v in re.findall(r"(?<![.\w])holdpoint ([a-z]+)\b", body) if v not in verbs]
    return problems


def check_import():
    """systemd's own reader takes them, each in its language."""
    with tempfile.TemporaryDirectory() as root:
        source, state = os.path.join(root, "usr/lib/systemd/catalog"), os.path.join(root, "var/lib/systemd/catalog")
        os.makedirs(source)
        os.makedirs(state)
        for path in glob.glob(os.path.join(tree.TOP, TEXTS, "*.catalog")):
            shutil.copy(path, source)
        done = subprocess.run(["journalctl", "--root", root, "--update-catalog"], capture_output=True, text=True)
        if done.returncode != 0 or done.stderr:
            return ["journalctl --update-catalog: %s" % (done.stderr or done.returncode)]
        with open(os.path.join(state, "database"), "rb") as f:
            database = f.read()
    return [] if database.count(b"zh_CN") >= len(messages()) else ["the Chinese texts are not taken for Chinese"]


def check(verbs):
    wanted = messages()
    problems = check_list(wanted)
    for name in LANGUAGES:
        problems += check_texts(os.path.join(TEXTS, name), tree.text(os.path.join(TEXTS, name)), wanted, verbs)
    known = {i for _, i, _ in wanted}
    for path in tree.files(".scd", ".md", below=("docs",)):
        problems += ["%s: no message has the id %s" % (path, i)
                     for i in re.findall(r"\b[0-9a-f]{32}\b", tree.text(path)) if i not in known and "docs/man" in path]
    return problems + check_import()


if __name__ == "__main__":
    import documents
    result = check(documents.verbs(*(sys.argv[1:2] or [os.path.join(tree.TOP, "build", "tree")])))
    print("\n".join(result))
    sys.exit(1 if result else 0)
