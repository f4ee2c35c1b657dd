"""No test of its own: test_guest.py runs it, and looks at what is left of one that fails."""


def test_that_fails(guest):
    guest("say before it failed; exit 1")
