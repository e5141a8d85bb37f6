"""The command line as a whole: its commands, help texts, usage errors and exit statuses."""

import argparse
import importlib
import re

import pytest

from riskbatch.cli import exits, main
from riskbatch.cli.main import COMMANDS, command_line


def parsers(parser=None):
    """Yield every parser: of the whole, of each command and of each verb."""
    parser = parser or command_line()
    parser.load()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


PARSERS = {parser.prog: parser for parser in parsers()}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_module_with_help_options_and_run(name):
    """The line in the list of commands is that of the command's module."""
    module = importlib.import_module(f"riskbatch.cli.{name}")
    assert COMMANDS[name] == module.HELP
    assert callable(module.add_options)
    assert callable(module.run)


@pytest.mark.parametrize("prog", PARSERS)
def test_every_help_text_is_there_and_fits_80_columns(prog, capsys, monkeypatch):
    """Help exits with 0, goes to stdout, and wraps on no terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*prog.split()[1:], "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(f"usage: {prog} ")
    assert [line for line in captured.out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("prog", PARSERS)
def test_every_option_is_explained(prog):
    """Each option, command and verb has a help text."""
    for action in PARSERS[prog]._actions:
        each = action._choices_actions if isinstance(action, argparse._SubParsersAction) else [action]
        assert [found.dest for found in each if not found.help] == []


def test_queue_and_providers_list_their_verbs(capsys):
    """A newcomer sees in the help text what the verbs do."""
    for command, verbs in (("queue", "stats ls export import drop"), ("providers", "list create update")):
        assert main([command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert [verb for verb in verbs.split() if not re.search(rf"^    {verb} +\w", shown, re.M)] == []


@pytest.mark.parametrize("prog", PARSERS)
def test_an_unknown_option_shows_the_usage_of_its_own_command(prog, capsys):
    """The usage that helps is that of the command, and of the verb, in which the mistake is."""
    values = {"queue": ["x.db"], "providers": ["name"]}.get(prog.split()[1] if " " in prog else "", [])
    words = prog.split()[1:]
    if words in (["queue", "import"], ["providers", "create"]):
        values = [*values, "feed.csv"] if words[0] == "queue" else [*values, "--client-id", "0oa1"]
    if words == ["completion"]:
        values = ["bash"]
    if words == ["providers", "list"]:
        values = []
    verb = {"queue": "ls", "providers": "list"}.get(prog.split()[-1]) if len(words) == 1 else None
    if verb:  # the verb is required, so that the usage is of the command as long as there is none
        values = []
    assert main([*words, *values, "--no-such-option"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"usage: {prog} ")
    assert verb or "--no-such-option" in captured.err


def test_an_option_of_another_verb_is_unknown(capsys):
    """`--row` belongs to `queue drop`; `queue ls` says so with its own usage."""
    assert main(["queue", "ls", "x.db", "--row", "3"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: riskbatch queue ls ")
    assert err.endswith("riskbatch queue ls: error: unrecognized arguments: --row 3\n")


def test_no_option_may_be_abbreviated(capsys):
    """An abbreviation that works today is ambiguous with the next option."""
    assert main(["simulate", "--hig", "1/s"]) == 2
    assert "unrecognized" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["\x1b[31m"],
        ["queue", "ls", "x.db", "--\x1b[31m"],
        ["queue", "ls", "\x1b[31m.db"],
        ["queue", "import", "x.db", "\x1b[31m.csv"],
        ["simulate", "--high", "\x1b[31m"],
        ["simulate", "--replay", "\x1b[31m.jsonl"],
        ["providers", "list", "--org-url", "\x1b[31m"],
        ["completion", "\x1b[31m"],
    ],
)
def test_what_a_user_types_does_not_control_the_terminal(argv, capsys, tmp_path, monkeypatch):
    """Escape sequences in arguments and names of files are shown as question marks or in quotes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OKTA_CLIENT_TOKEN", "token")
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "[31m" in captured.err


def test_the_help_text_ends_with_the_table_of_exit_statuses(capsys):
    """All exit statuses, each with its meaning, stand in one table."""
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith(exits.table())
    constants = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert set(exits.MEANINGS) == constants
    for status in constants:
        assert re.search(rf"^  {status} ", exits.table(), re.M)


def test_without_a_command_the_commands_are_listed(capsys):
    """`riskbatch` alone is a usage error that shows what there is."""
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert [name for name in COMMANDS if f"    {name}" not in shown] == []
