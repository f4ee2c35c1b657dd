#!/usr/bin/python3
"""Sums up what the suites left in the results directory: the closing line of ./run test.

  results.py DIRECTORY SUITE…                      print failures, then "N passed, N failed"; exit 1 if any failed
  results.py --record FILE SUITE NAME passed|failed    one test of our own
  results.py --exit-status DIRECTORY SUITE N           the exit code of a suite's runner

Nothing that went wrong may be lost: a program that died without an account of its cases, a runner that
failed without a failed test, a suite that ran nothing and a skipped test all count as failed.
"""

import glob
import os
import sys
import xml.etree.ElementTree as ET


class Results:
    def __init__(self):
        self.passed, self.failed, self.messages, self.figures = 0, 0, [], []

    def fail(self, name, text=""):
        self.failed += 1
        self.messages.append((name, text.strip()))


def verdict(case):
    """None for a passed case, else what went wrong."""
    for kind in ("failure", "error"):
        found = case.find(kind)
        if found is not None:
            return (found.get("message") or "") + "\n" + (found.text or "")
    found = case.find("skipped")
    if found is not None:
        return "skipped, but must run here: " + (found.get("message") or found.text or "")
    return None


def read_cases(path, results, program=None):
    """Counts the cases of one file; returns how many failed, or None when there is no account in it."""
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, OSError):
        return None
    failed = 0
    for suite in root.iter("testsuite"):
        for case in suite.findall("testcase"):
            text = verdict(case)
            results.figures += ["%s: %s: %s" % (case.get("name"), p.get("name"), p.get("value"))
                                for p in case.iter("property")]
            if text is None:
                results.passed += 1
            else:
                failed += 1
                prefix = program or case.get("classname") or suite.get("name") or os.path.basename(path)
                results.fail("%s: %s" % (prefix, case.get("name")), text)
    return failed


def read_unit(directory, results):
    """meson knows which programs failed, cmocka knows which cases: both are needed."""
    try:
        root = ET.parse(os.path.join(directory, "unit-programs.xml")).getroot()
    except (ET.ParseError, OSError):
        results.fail("unit", "meson left no results")
        return
    programs = [case for suite in root.iter("testsuite") for case in suite.findall("testcase")]
    if not programs:
        results.fail("unit", "no unit test ran")
    for program in programs:
        name = program.get("name").rpartition(" / ")[2]  # meson puts the suite before it when there are several
        files = glob.glob(os.path.join(directory, "cmocka", "test-" + name, "*.xml"))
        accounts = [read_cases(path, results, "test-" + name) for path in files]
        text = verdict(program)
        if text is not None and not any(accounts):
            results.fail("test-" + name, "the program failed outside of its cases\n" + text)
        elif not accounts or None in accounts:
            results.fail("test-" + name, "no account of its cases")


def read_suite(directory, suite, results):
    passed, failed = results.passed, results.failed
    if suite == "unit":
        read_unit(directory, results)
    else:
        read_cases(os.path.join(directory, suite + ".xml"), results)
    if (passed, failed) == (results.passed, results.failed):
        results.fail(suite, "the suite ran no test")
    try:
        with open(os.path.join(directory, suite + ".exit")) as f:
            status = int(f.read())
    except (OSError, ValueError):
        results.fail(suite, "the suite did not run to its end")
        return
    if status == 124:
        results.fail(suite, "the suite took too long and was ended")
    elif status and results.failed == failed:
        results.fail(suite, "its runner ended with %d" % status)


def summarise(directory, suites):
    results = Results()
    for path in sorted(glob.glob(os.path.join(directory, "build-*.xml"))):
        read_cases(path, results)
    for suite in suites:
        read_suite(directory, suite, results)
    for figure in results.figures:
        print(figure)
    for name, text in results.messages:
        print("FAILED %s" % name)
        for line in text.splitlines()[-25:]:
            print("    " + line)
    print("%d passed, %d failed" % (results.passed, results.failed))
    return 1 if results.failed else 0


def record(path, suite, name, result):
    root = ET.Element("testsuite", name=suite)
    case = ET.SubElement(root, "testcase", classname=suite, name=name)
    if result != "passed":
        ET.SubElement(case, "failure", message="see %s" % path.replace(".xml", ".log"))
    ET.ElementTree(root).write(path)


def main(argv):
    if argv[:1] == ["--record"] and len(argv) == 5:
        record(*argv[1:])
        return 0
    if argv[:1] == ["--exit-status"] and len(argv) == 4:
        with open(os.path.join(argv[1], argv[2] + ".exit"), "w") as f:
            f.write(argv[3])
        return 0
    if len(argv) < 2 or argv[0].startswith("-"):
        sys.exit(__doc__)
    return summarise(argv[0], argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
