#!/usr/bin/python3
"""Writes the numbered migrations as a C table: embed-schema.py OUTPUT 0001-NAME.sql 0002-NAME.sql …"""

import pathlib
import sys


def quote(line):
    return '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"'


def main():
    output, *files = sys.argv[1:]
    out = ['#include "sql/catalog-internal.h"', "", "const Migration catalog_migrations[] = {"]
    for number, name in enumerate(sorted(files, key=lambda f: pathlib.Path(f).name), start=1):
        path = pathlib.Path(name)
        if int(path.name[:4]) != number:
            sys.exit(f"{path.name}: migration {number} is missing")
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n                ".join(quote(line) for line in lines if line and not line.startswith("--"))
        out += ["        {", f"                {number},", f"                {text},", "        },"]
    out += ["};", "", f"const size_t catalog_n_migrations = {len(files)};", ""]
    pathlib.Path(output).write_text("\n".join(out), encoding="utf-8")


main()
