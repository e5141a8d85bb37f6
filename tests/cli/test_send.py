"""The options of `send`, and lines that fit."""

import argparse

import pytest
from budget import budget
from hypothesis import given, settings
from hypothesis import strategies as st

import riskbatch as rb
from riskbatch import cli
from riskbatch.cli import terminal
from riskbatch.cli.options import rate_limit

examples = settings(max_examples=budget(15, 60), deadline=None)  # a busy machine is no failure


@pytest.mark.parametrize(("text", "limit"), [("30/60s", (30, 60.0)), ("15/60", (15, 60.0)), ("5/0.5s", (5, 0.5))])
def test_a_limit_is_requests_per_seconds(text, limit):
    assert rb.RateLimit(*limit) == rate_limit(text)


@pytest.mark.parametrize("text", ["", "30", "0/60s", "30/0s", "-1/60s", "30/60m", "30/infs", "1.5/60s", "30/60s "])
def test_a_limit_that_cannot_work_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        rate_limit(text)


@examples
@given(st.lists(st.text("abc", max_size=40), min_size=1, max_size=7), st.integers(0, 120))
def test_the_progress_fits_the_terminal(parts, width):
    """Whatever there is to say and however narrow the terminal: one line, the most important first."""
    line = terminal.fit(parts, width)

    assert len(line) <= width
    assert line.startswith(parts[0][:width])


@examples
@given(st.text())
def test_nothing_from_a_feed_steers_the_terminal(text):
    assert terminal.printable(text).isprintable()
    assert len(terminal.printable(text * 50)) <= 300


@pytest.mark.parametrize(
    ("argv", "status", "text"),
    [
        (["--help"], 0, "riskbatch demo"),
        (["send", "--help"], 0, "exit status"),
        (["emulate", "--help"], 0, "--latency"),
        (["demo", "--help"], 0, "half a minute"),
        (["--version"], 0, "riskbatch 0"),
        ([], 2, "commands:"),
        (["sned"], 2, "invalid choice"),
        (["send", "--limit", "x"], 2, "30/60s"),
        (["send", "--lim", "30/60s"], 2, "unrecognized"),
        (["emulate", "--fault", "2"], 2, "from 0 to 1"),
        (["emulate", "--port", "99999"], 2, "from 0 to 65535"),
        (["emulate", "--token", "two words"], 2, "error:"),
    ],
)
def test_the_command_line_explains_itself(argv, status, text, capsys):
    """Help is 0, a mistake is 2 and says what is wrong; the text fits 80 columns."""
    assert status == cli.main(argv)

    out, err = capsys.readouterr()
    assert text in (out if status == 0 else err)
    assert max((len(line) for line in out.splitlines()), default=0) <= 83


def test_no_option_takes_the_token_of_an_org(capsys):
    cli.main(["send", "--help"])

    assert "--token" not in capsys.readouterr().out
