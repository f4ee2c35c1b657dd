"""Runs the checks of this folder, the formatter and shellcheck. Each check is also shown to be able to fail."""

import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import documents  # noqa: E402
import errors  # noqa: E402
import includes  # noqa: E402
import messages  # noqa: E402
import names  # noqa: E402
import remedies  # noqa: E402
import tree  # noqa: E402
import words  # noqa: E402


def clean(problems):
    assert not problems, "\n" + "\n".join(problems)


def test_includes():
    clean(includes.check())


def test_includes_can_fail():
    assert includes.check_own("agent/x.c", "agent", "repo/repo.h")
    assert includes.check_own("repo/x.c", "repo", "sql/catalog.h")
    assert includes.check_own("repo/x.c", "repo", "pack.h")
    assert not includes.check_own("repo/x.c", "repo", "sql/db.h")
    assert includes.check_library("worker/x.c", "sqlite3.h")
    assert not includes.check_library("sql/db.c", "sqlite3.h")


def test_header_names():
    clean(names.check_headers())


def test_no_mutable_variables():
    clean(names.check_state(os.path.join(tree.TOP, "build")))


def test_mutable_variables_are_found(tmp_path):
    os.mkdir(tmp_path / "cli")
    (tmp_path / "x.c").write_text("static int state; int f(void) { return ++state; }\n"
                                  "static const char *const table[] = { \"a\" }; const char *g(int i) { return table[i]; }\n")
    subprocess.run(["gcc", "-fPIE", "-c", tmp_path / "x.c", "-o", tmp_path / "cli" / "x.o"], check=True)
    assert names.check_state(str(tmp_path)) == ["cli/x.o: mutable variable state"]


PROGRAMS = os.environ.get("HOLDPOINT_TREE") or os.path.join(tree.TOP, "build", "tree")


def test_messages():
    clean(messages.check(documents.verbs(PROGRAMS)))


def test_messages_can_fail():
    wanted = messages.messages()
    name, identifier, _ = wanted[0]
    text = tree.text("units/journal/holdpoint.catalog")

    def finds(changed):
        return messages.check_texts("x", changed, wanted, documents.verbs(PROGRAMS))

    assert not finds(text)
    assert finds(text.replace("# %s\n" % name, "# MESSAGE_OTHER\n"))
    assert finds(text.replace("# %s\n" % name, "#\n"))
    assert finds(text.replace(identifier, "0" * 32))
    assert finds(text.replace("@HOLDPOINT_JOB@", "@HOLDPOINT_PHASE@"))
    assert finds(text.replace("holdpoint confirm", "holdpoint commit"))
    assert messages.check_list(wanted + [("MESSAGE_NEVER_SAID", "1" * 32, "INFO")])
    assert messages.check_list(wanted + [wanted[0]])


def test_remedies():
    clean(remedies.check(PROGRAMS))


@pytest.mark.parametrize("text", ["holdpoint commit ID", "holdpoint key export", "run 'holdpoint schedule drop x'", "请运行 holdpoint prune --now",
                                  "(--keys FILE)", "systemctl start holdpoint-restored.socket", "raise LockTimeout=", "MaxHoldMSec= of [Hot]",
                                  "see [Holds]", "[Hot] 的 MaxHoldMSec=", "journalctl HOLDPOINT_UNIT=x"])
def test_remedies_can_fail(text):
    assert remedies.check_text(text, remedies.Known(PROGRAMS))


def test_pages_are_looked_at():
    known = remedies.Known(PROGRAMS)
    assert remedies.check_page("`holdpoint commit` and `holdpoint key forget`, `holdpoint list --lmit 3`", known)[2:]
    assert not remedies.check_page("`holdpoint jobs --state queued`", known)


def test_good_remedies_are_good():
    text = "holdpoint key prove FILE; 'holdpoint schedule set %s' --time 02:00, systemctl status 'holdpoint-*.socket' holdpoint@x.timer holdpoint-backup@.service"
    assert not remedies.check_text(text + " MaxHoldMSec= of [Hold], 请看 [Hot] 的 Keep= HOLDPOINT_JOB=1", remedies.Known(PROGRAMS))
    assert remedies.strings('a("x \\"y\\" " /* "c" */\n "z", "w");') == ['x "y" z', "w"]


def test_words():
    clean(words.check())


def test_manual():
    clean(documents.check())


def test_manual_can_fail():
    assert documents.missing(["NoSuchMember"], "holdpoint.1.scd", "D-Bus member")
    assert documents.missing([], "holdpoint.1.scd", "verb")
    assert documents.check_phases("Phases, in order: `hold` of a `Unit=`.\n\n`swap`")
    assert {"Agent", "Hold", "Hot", "Repository", "Restore", "Retention", "Service"} == {section for section, _ in documents.keys()}


def test_pages_can_fail():
    assert documents.named("see `worker/no-such.c`, `docs/adr` and /usr/docs/x") == {"worker/no-such.c", "docs/adr"}
    assert documents.check_completion(["--no-such"]) and not documents.check_completion(["--pinned"])
    assert errors.make() != errors.make().replace("QueueFull", "Full")
    assert len(errors.codes()) == len(errors.ADVICE)


def test_format():
    sources = tree.files(".c", ".h")
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", *sources], cwd=tree.TOP, capture_output=True, text=True)
    bad = sorted({line.split(":")[0] for line in done.stderr.splitlines() if "code should be clang-formatted" in line})
    assert done.returncode == 0, "run clang-format -i on\n" + "\n".join(bad)


@pytest.mark.parametrize("script", ["run", ".ci/run", "tests/lib/cmocka-wrapper", "units/examples/by-hand/start", "units/setup/finish",
                                    "units/setup/remove", "tests/vm/init.sh", "tests/vm/boot.sh", "tests/vm/lib.sh"])
def test_shell(script):
    done = subprocess.run(["shellcheck", script], cwd=tree.TOP, capture_output=True, text=True)
    assert done.returncode == 0, "\n" + done.stdout
