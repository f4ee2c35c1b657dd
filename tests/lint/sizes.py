#!/usr/bin/python3
"""Prints the ten longest files and functions. No gate: whoever adds to one says why it still reads well."""

import re

import tree

START = re.compile(r"^[a-z_].*\b(\w+)\([^;]*$")


def functions(path):
    """(lines, name, path) of each function; the house style puts its braces where this finds them."""
    found, start, name = [], None, None
    for number, line in enumerate(tree.text(path).splitlines(), 1):
        if start is None or not line.startswith((" ", "}", "#")):
            opened = START.match(line)
            if opened and not line.startswith(("typedef", "struct", "enum")):
                start, name = number, re.match(r"[^(]*?(\w+)\(", line).group(1)
        if line == "}" and start:
            found.append((number - start + 1, name, path))
            start = None
    return found


def main():
    paths = tree.files(".c", ".h")
    sizes = sorted(((tree.text(p).count("\n"), p) for p in paths), reverse=True)[:10]
    longest = sorted((f for p in paths for f in functions(p)), reverse=True)[:10]
    print("longest files (aim: 600 lines)")
    print("\n".join("  %5d  %s" % item for item in sizes))
    print("longest functions (aim: 60 lines)")
    print("\n".join("  %5d  %s  %s" % item for item in longest))


if __name__ == "__main__":
    main()
