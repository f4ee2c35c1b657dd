#!/usr/bin/python3
"""What people are told to do must be there: commands with their subcommands and options, units, keys of the configuration.

Looked at: the texts of the journal in all languages, the texts in the code, and commands in the running text of the pages
(tests/agent/test_documents.py types those of their examples).
"""

import fnmatch
import os
import re
import sys

import documents
import messages
import tree

UNIT = re.compile(r"(?<![\w/.-])holdpoint[\w-]*(?:@[\w%-]*)?(?:\*[\w-]*)?\.(?:service|socket|timer|target)(?![\w.]*\w)", re.A)
KEY = re.compile(r"(?<![\w.])([A-Z][a-z]+[A-Za-z]*)=", re.A)
FIELD = re.compile(r"(?<!\w)(HOLDPOINT_[A-Z_]+)=", re.A)
SECTION = re.compile(r"\[([A-Z][a-z]+)\]", re.A)
COMMAND = re.compile(r"(?<![\w./-])holdpoint ([a-z]+)(?: ([a-z][a-z-]*))?([^'\"\n]*)", re.A)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+", re.A)
TOKEN = re.compile(r'"((?:[^"\\\n]|\\.)*)"|/\*.*?\*/', re.S)
QUOTED = re.compile(r"'((?:holdpoint|systemctl|journalctl) [^']*)'")

# Not ours: systemd's, in what the doctor and schedules say about units.
FOREIGN_KEYS = {"OnCalendar", "Type", "ReadWritePaths", "CapabilityBoundingSet", "PrivateTmp", "ProtectHome"}
FOREIGN_SECTIONS = {"Timer", "Service"}
FOREIGN_OPTIONS = {"--check-config"}  # holdpointd's


def rules():
    """{(section, key)} of base/config-rules.c."""
    return set(re.findall(r'"([A-Z][a-z]+)",\s*"([A-Z]\w+)"', tree.text("base/config-rules.c")))


def subcommands():
    """{verb: its second words}, of the verbs that have such, from the manual page."""
    page = documents.page("holdpoint.1.scd")
    found = {verb: set(re.findall(r"\*%s ([a-z-]+)\*" % verb, page)) for verb in ("key", "schedule")}
    found["schedule"].add("list")
    return found


def units():
    return {name[:-len(".in")] if name.endswith(".in") else name
            for name in os.listdir(os.path.join(tree.TOP, "units", "systemd"))}


class Known:
    def __init__(self, programs):
        self.verbs, self.subcommands = set(documents.verbs(programs)), subcommands()
        self.options = set(documents.options()) | FOREIGN_OPTIONS
        self.rules, self.units = rules(), units()
        self.keys = {key for _, key in self.rules} | FOREIGN_KEYS
        self.sections = {section for section, _ in self.rules} | FOREIGN_SECTIONS
        self.fields = set(re.findall(r'#define HP_FIELD_\w+ +"(\w+)"', tree.text("base/names.h")))

    def has_unit(self, name):
        """One of ours, an instance of one, or a pattern for some."""
        template = re.sub(r"@[^.]*\.", "@.", name)
        return bool(fnmatch.filter(self.units, template))


def check_commands(text, known):
    problems = []
    for verb, second, rest in COMMAND.findall(text):
        if verb not in known.verbs:
            problems.append("'holdpoint %s' is no command" % verb)
        elif verb in known.subcommands and second not in known.subcommands[verb] and (second or rest[1:2] not in ("", "%")):
            problems.append("'holdpoint %s %s' is no command" % (verb, second))
        problems += ["'holdpoint %s' has no option %s" % (verb, o) for o in OPTION.findall(rest) if o not in known.options]
    return problems


def check_units(text, known):
    return ["there is no unit %s" % name for name in UNIT.findall(text) if not known.has_unit(name)]


def check_text(text, known):
    """A text for people, about us alone."""
    flat = re.sub(r"\s+", " ", text)
    problems = check_commands(text, known) + check_units(text, known)
    problems += ["there is no key %s=" % key for key in KEY.findall(text) if key not in known.keys]
    problems += ["there is no section [%s]" % s for s in SECTION.findall(text) if s not in known.sections]
    problems += ["no line has %s=" % field for field in FIELD.findall(text) if field not in known.fields]
    problems += ["there is no option %s" % o for o in OPTION.findall(text) if o not in known.options]
    pairs = [(s, k) for k, s in re.findall(r"([A-Z][A-Za-z]+)=,? (?:of|in) \[(\w+)\]", flat, re.A)]
    pairs += re.findall(r"\[(\w+)\] \u7684 ([A-Z][A-Za-z]+)=", flat, re.A)
    return problems + ["[%s] has no key %s=" % p for p in pairs if p[0] not in FOREIGN_SECTIONS and p not in known.rules]


def strings(source):
    """The texts of a C file, literals beside each other joined."""
    found, end = [], None
    for token in TOKEN.finditer(source):
        if token.group(1) is None:  # a comment
            continue
        text = re.sub(r"\\(.)", r"\1", token.group(1))
        if end is not None and not TOKEN.sub(" ", source[end:token.start()]).strip():
            found[-1] += text
        else:
            found.append(text)
        end = token.end()
    return found


def check_code(known):
    problems = []
    for path in tree.files(".c", below=tree.FOLDERS):
        for text in strings(tree.text(path)):
            problems += ["%s: %s" % (path, p) for p in check_units(text, known)]
            for quoted in QUOTED.findall(text):
                problems += ["%s: %s" % (path, p) for p in check_commands(quoted, known)]
            if re.search(r"\[(?:Hold|Retention|Hot|Restore|Repository|Agent)\]", text):
                problems += ["%s: %s" % (path, p) for p in check_text(text, known)]
    return problems


def check_page(text, known):
    """Commands between backquotes."""
    return [p for quoted in re.findall(r"`(holdpoint [^`\n]+)`", text) for p in check_commands(quoted, known)]


def check_pages(known):
    pages = [p for p in tree.files(".md") if p in documents.PAGES or p.startswith("docs" + os.sep)]
    return ["%s: %s" % (path, p) for path in pages for p in check_page(tree.text(path), known)]


def check(programs):
    known = Known(programs)
    problems = check_code(known) + check_pages(known)
    for name in messages.LANGUAGES:
        for message, _, subject, body in messages.entries(tree.text(os.path.join(messages.TEXTS, name))):
            problems += ["%s: %s: %s" % (name, message, p) for p in check_text("%s\n%s" % (subject, body), known)]
    return problems


if __name__ == "__main__":
    result = check(*(sys.argv[1:2] or [os.path.join(tree.TOP, "build", "tree")]))
    print("\n".join(result))
    sys.exit(1 if result else 0)
