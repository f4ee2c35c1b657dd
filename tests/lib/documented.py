"""Dictionaries as docs/DBUS.md lists them, and the command line's objects as holdpoint(1) does: what a test holds the programs to."""

import os
import re

import holdpoint

TYPE = r"(?:aa\{sv\}|a\{sv\}|a\{ss\}|as|ao|[sbtudo])"
PAIR = re.compile(r"`([a-z][a-z0-9_\s]*)`\s`(%s)`|`([a-z][a-z0-9_]*) (%s)`" % (TYPE, TYPE))
JSON = {"s": str, "o": str, "b": bool, "t": int, "u": int, "d": (float, int), "as": list, "ao": list, "aa{sv}": list, "a{sv}": dict,
        "a{ss}": dict}


def page(path):
    with open(os.path.join(holdpoint.TOP, path), encoding="utf-8") as f:
        return f.read()


def section(title):
    return re.search(r"^## %s.*?\n(.*?)(?=^## |\Z)" % re.escape(title), page("docs/DBUS.md"), re.M | re.S).group(1)


def pairs(text):
    """`one two` `t` and `three s` → {one: t, two: t, three: s}"""
    return {key: a_type or b_type for keys, a_type, one, b_type in PAIR.findall(text) for key in (keys or one).split()}


def rows(title):
    """The cells of the first table of a section."""
    text = re.search(r"^\| .*\n\|---.*\n((?:\| .*\n)+)", section(title), re.M).group(1)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]


def quoted(cell):
    """The groups between the dots of a cell, each a list of words."""
    return [[w for q in re.findall(r"`([^`]+)`", part) for w in q.split()] for part in cell.split(" · ")]


def table(title):
    """{key: type} of the table of a section, and {key: {key: type}} of the rows that are in it."""
    keys, below = {}, {}
    for cells in rows(title):
        groups, types = quoted(cells[0]), quoted(cells[1])
        types = types if len(types) == len(groups) else types * len(groups)
        for group, (kind,) in zip(groups, types):
            for key in group:
                keys[key] = kind
                if kind == "aa{sv}" and len(cells) > 2:
                    below[key] = pairs(cells[2])
    return keys, below


def paragraph(title, beginning):
    """{key: type} of the sentence that begins so."""
    text = section(title)
    return pairs(text[text.index(beginning):].split("\n\n")[0])


def summaries():
    """{(type of job, depth or ""): {key: type}}; those that are dictionaries of another section are not in it."""
    found = {}
    for names, figures in rows("Summaries"):
        if "dictionaries" in figures:
            continue
        common, *special = re.split(r"; (?=`[a-z ]+`:)", figures)
        for name in quoted(names)[0]:
            found[name, ""] = pairs(common)
            for text in special:
                words, _, own = text.partition(":")
                found.update({(name, word): dict(pairs(common), **pairs(own)) for word in quoted(words)[0]})
    return found


def stream_keys():
    return {word for cells in rows("Streams") for group in quoted(cells[0]) for word in group}


def command_line():
    """{verb: (keys that are named, the dictionary that is in it or "")}"""
    text = re.search(r"^# JSON\n(.*?)(?=^# )", page("docs/man/holdpoint.1.scd"), re.M | re.S).group(1)
    found = {}
    for names, members in re.findall(r"^\|  (.*)\n:  (.*)$", text, re.M):
        keys = re.findall(r"(?<!\w)_([a-z_]+)_(?!\w)", members)
        dictionary = re.search(r"\bthe (\w+)(?=,|$)", members)
        for name in re.findall(r"\*([^*]+)\*(?: (JOB))?", names):
            found[" ".join(filter(None, name))] = set(keys), dictionary.group(1) if dictionary else ""
    return found
