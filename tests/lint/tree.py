"""The files of the project, for the checks beside this one."""

import os

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = ("base", "snapshot", "archive", "repo", "sql", "worker", "agent", "cli")
IGNORED = (".git", "__pycache__", ".pytest_cache")


def files(*endings, below=None):
    """Paths relative to the top, sorted; `below` names top-level folders, default all of them."""
    found = []
    for folder, names, leaves in os.walk(TOP):
        relative = os.path.relpath(folder, TOP)
        names[:] = sorted(n for n in names if n not in IGNORED and not (relative == "." and n.startswith("build")))
        for leaf in leaves:
            path = os.path.normpath(os.path.join(relative, leaf))
            if leaf.endswith(endings or ("",)) and (below is None or path.split(os.sep)[0] in below):
                found.append(path)
    return sorted(found)


def text(path):
    with open(os.path.join(TOP, path), encoding="utf-8", errors="replace") as f:
        return f.read()
