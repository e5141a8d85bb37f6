"""The completion scripts in real shells, and how fast the command line starts."""

import shutil
import subprocess
import sys

import pytest

from riskbatch.cli import main

LISTED = """
source "$1"; shift
complete -p riskbatch | grep -q -- '-F _riskbatch' || exit 9
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _riskbatch; printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path, capsys):
    """Return a function that writes the script for a shell and returns its path."""

    def write(shell):
        assert main(["completion", shell]) == 0
        path = tmp_path / "_riskbatch"
        path.write_text(capsys.readouterr().out)
        return str(path)

    return write


@pytest.fixture
def complete(script):
    """Return a function that completes the last of its words in bash."""
    path = script("bash")

    def run(*words):
        done = subprocess.run(
            ["bash", "--norc", "-c", LISTED, "bash", path, "riskbatch", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["se"], ["send"]),
        (["--v"], ["--version"]),
        (["queue", ""], ["stats", "ls", "export", "import", "drop", "--help"]),
        (["queue", "ls", "x.db", "--le"], ["--level"]),
        (["queue", "ls", "x.db", "--level", ""], ["HIGH", "MEDIUM", "LOW"]),
        (["queue", "drop", "x.db", "--level", "M"], ["MEDIUM"]),
        (["simulate", "--window", ""], ["fixed", "sliding"]),
        (["simulate", "--high", "1/s", "--rep"], ["--replay"]),
        (["providers", "create", "Name", "--action", "log"], ["log_only"]),
        (["completion", ""], ["bash", "zsh", "--help"]),
        (["queue", "stats", ""], []),  # bash completes names of files by itself
        (["send", "--rejected", "-"], []),
    ],
)
def test_bash_completes_commands_verbs_options_and_values(words, expected, complete):
    """What is offered is what the parsers take."""
    assert complete(*words) == expected


def test_bash_knows_every_command(complete):
    """All commands are offered where a command is due."""
    for command in ("send", "demo", "emulate", "simulate", "providers", "doctor", "queue", "completion"):
        assert command in complete("")


ZSH = """
autoload -Uz compinit && compinit -u -d "$1.dump"
source "$1"
(( $+functions[_riskbatch_queue_ls] )) && [[ $_comps[riskbatch] == _riskbatch ]]
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_loads_the_script(script, tmp_path):
    """zsh reads the script without an error, and knows the function that completes riskbatch."""
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH, "zsh", script("zsh")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["completion", "bash"], ["completion", "zsh"]])
def test_what_needs_no_org_imports_no_aiohttp(argv):
    """A command starts fast: aiohttp takes longer to import than all of this takes to run."""
    program = f"import sys; from riskbatch.cli import main; main({argv!r}); sys.exit('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_client_is_imported_with_all_that_it_needs():
    """`from riskbatch import Client` imports aiohttp: the first request must not wait for it on the event loop."""
    program = "import sys; from riskbatch import Client; sys.exit('aiohttp' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
