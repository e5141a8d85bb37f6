"""The documents agree with the code: links, tables, commands and lengths. Their code runs in wire/test_pages_run.py."""

import ast
import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest
from pages import PAGES, ROOT, blocks, code, name_of, prose_of, section, table, text_of

import riskbatch
from riskbatch.cli.exits import MEANINGS
from riskbatch.cli.main import COMMANDS, command_line
from riskbatch.log import EVENTS

NAMES = [name_of(path) for path in PAGES]
SHELL = blocks("sh")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# ---------------------------------------------------------------------------------------------- links and lengths


def anchors(page: str) -> set[str]:
    """Return the names of the headings of *page*, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", NAMES)
def test_every_link_leads_somewhere(page):
    """Each link to a page, a heading or a file finds it."""
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", prose_of(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(name_of(target)), link


def test_every_page_is_linked_from_the_readme():
    """Everything is behind one link, or two for what a page's own page says."""
    near = set(re.findall(r"\]\(([^)#\s]+\.md)", text_of("README.md")))
    assert set(NAMES) - {"README.md"} - near == {"tests/examples/README.md"}
    assert "(../tests/examples/README.md)" in text_of("riskbatch/README.md")


def test_pages_are_short():
    """The README is read in three minutes, and each page has at most 1,500 words."""
    for page in NAMES:
        assert len(prose_of(page).split()) <= (900 if page == "README.md" else 1500), page


def test_every_example_has_a_line():
    """The page of the examples links each file."""
    files = {path.name for path in (ROOT / "tests/examples").glob("*.py")}
    assert set(re.findall(r"\((\w+\.py)\)", text_of("tests/examples/README.md"))) == files


def test_every_block_has_a_language_that_is_tested():
    """Python runs, shell is checked, `yaml` is the alert rule; all else is output."""
    assert {block.language for block in blocks()} <= {"python", "sh", "text", "yaml"}


# ---------------------------------------------------------------------------------------------- commands


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a shell script, without variables before it and redirections."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    words: list[str] = []
    tokens = iter([*lexer, "\n"])
    for token in tokens:
        if token in ("<", ">", ">>"):
            next(tokens)
            continue
        if token[0] == "#":  # a comment
            while "\n" not in next(tokens):
                pass
        elif not set(token) <= set("();|&\n"):
            if words or not re.match(r"[A-Z_]+=", token):
                words.append(token)
            continue
        if words:
            yield words
        words = []


def is_known(words: list[str]) -> bool:
    """Tell whether a command that the pages show exists, with exactly these options."""
    program, *arguments = words
    program = program.removeprefix(".venv/bin/").removeprefix("/path/to/.venv/bin/")
    match program:
        case "riskbatch":
            try:
                return command_line().parse_args(arguments).run is not None
            except SystemExit as done:  # --help, or an error, which argparse has printed
                return done.code == 0
        case "pip":
            return is_installable(arguments)
        case "python" | "python3" if arguments[0] == "-m":
            if arguments[1] == "pip":
                return is_installable(arguments[arguments.index("install") :])
            return importlib.util.find_spec(arguments[1]) is not None
        case "python":
            return True  # a program that the page has just shown
        case "export":
            return all(word.partition("=")[0] in variables() for word in arguments)
    return program in ("jq", "ruff", "mypy") or (ROOT / program).is_file()


def is_installable(arguments: list[str]) -> bool:
    """Tell whether pip would find it: the package is on no index, so it is a path or a URL, with extras that exist."""
    extras = PROJECT["optional-dependencies"]
    needed = re.findall(
        r"[\w-]+(?=[><=])", " ".join([*PROJECT["dependencies"], *(" ".join(e) for e in extras.values())])
    )
    for word in (word for word in arguments[1:] if not word.startswith("-")):
        match = re.fullmatch(
            r"(\.|/path/to/riskbatch|riskbatch(?=.* @ git\+https://))(?:\[([\w,]+)\])?(?: @ .+)?", word
        )
        if match is None:
            assert word in needed, word
        else:
            assert set((match[2] or "oauth").split(",")) <= set(extras), word
    return arguments[0] == "install"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_command_is_one(block):
    """Each command of each page is known with exactly these options."""
    found = list(commands(block.text))
    assert found
    for words in found:
        assert is_known(words), shlex.join(words)


def test_a_command_that_is_none_is_found():
    """The check itself fails for a wrong option, an unknown extra, and a name that no index has."""
    assert not is_known(["riskbatch", "send", "--fast"])
    assert not is_known(["make"])
    for package in (".[fast]", "riskbatch", "riskbatch[oauth]"):
        with pytest.raises(AssertionError):
            is_known(["pip", "install", package])
    assert list(commands("A=1 jq 'a | b' <x |\n  riskbatch send - # all\nriskbatch demo")) == [
        ["jq", "a | b"],
        ["riskbatch", "send", "-"],
        ["riskbatch", "demo"],
    ]


def test_no_text_says_that_an_index_has_the_package():
    """Whoever follows `pip install riskbatch` gets nothing, or a stranger's package."""
    files = [*PAGES, *(path for folder in ("riskbatch", "tests/examples") for path in (ROOT / folder).rglob("*.py"))]
    for path in files:
        for line in re.findall(r"pip install.*", path.read_text(encoding="utf-8")):
            assert not re.search(r"install (-q )?['\"]?riskbatch(?!.* @ )", line), (path, line)


def test_the_two_commands_are_there_once():
    """One command shows the product, one passes the tests; both start from a fresh virtual environment."""
    for name in ("demo", "test"):
        (command,) = re.findall(rf"<!-- {name} command -->\n```sh\n(.+)\n```", text_of("README.md"))
        assert command.startswith("python3 -m venv ")


# ---------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("page", ["README.md", "riskbatch/README.md"])
def test_the_tables_of_settings_are_the_constructor(page):
    """Every keyword of `Client` is there with its default, and nothing that is none."""
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(riskbatch.Client).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "transport"
    }
    shown = {code(row[0]): eval(code(row[1]), vars(riskbatch)) for row in table(page, "Settings")}
    assert shown == keywords


def test_the_table_of_outcomes_is_the_union():
    """Each way in which a signal can end has its row."""
    assert [code(row[0]) for row in table("README.md", "Outcomes")] == [
        kind.__name__ for kind in riskbatch.Outcome.__args__
    ]


def test_the_table_of_the_log_is_the_codes_own():
    """Each event has the level, the meaning and the fields that the code's table has."""
    rows = table("riskbatch/OPERATING.md", "The log")
    assert [(code(name), level, meaning, re.sub("[`,]", "", fields)) for name, level, meaning, fields in rows] == [
        (name, *event) for name, event in EVENTS.items()
    ]


def test_the_table_of_commands_is_the_parsers():
    """Each command has the line that the help shows."""
    rows = table("riskbatch/cli/README.md", "The command line")
    assert {code(name): line for name, line in rows} == COMMANDS


def test_the_table_of_exit_statuses_is_the_codes_own():
    """Each status has the meaning that the help shows."""
    rows = table("riskbatch/cli/README.md", "Exit statuses")
    assert {int(status): meaning for status, meaning in rows} == {
        status: meaning.replace("\n", " ") for status, meaning in MEANINGS.items()
    }


def variables() -> set[str]:
    """Return the environment variables of users that the code names; the rest are libraries'."""
    named = {"SSL_CERT_FILE", "ALL_PROXY", "HTTPS_PROXY", "NO_PROXY"}
    for path in (ROOT / "riskbatch/okta").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= set(re.findall(r"^(?:OKTA_CLIENT|RISKBATCH)_[A-Z]+$", node.value))
    return named


def test_the_table_of_environment_variables_is_complete():
    """Each variable that the code reads has its row, and no other."""
    rows = table("riskbatch/okta/README.md", "Environment variables")
    assert {code(row[0]) for row in rows} == variables()


def test_the_variables_of_the_tests_exist():
    """Each variable that changes how the tests run is read somewhere in them."""
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path.name != "test_pages.py")
    for row in table("tests/README.md", "Run the tests"):
        assert code(row[0]).partition("=")[0] in sources


def test_each_promise_has_its_tests():
    """The seven promises of the README are in the table of the tests' page, with tests that exist."""
    promises = re.findall(r"^(\d)\. \*\*(.+?)\.\*\*", section("README.md", "What it promises"), re.MULTILINE)
    assert [number for number, _ in promises] == list("1234567")
    rows = table("tests/README.md", "Promises")
    told = [row[0].split(maxsplit=1) for row in rows if row[0]]
    assert [number for number, _ in told] == list("1234567")
    for (_, promise), (_, name) in zip(promises, told, strict=True):
        assert promise.lower().removeprefix("a ").startswith(name.lower())
    for _, tests in rows:
        assert "::test_" in tests
        for test in re.findall(r"[\w/]+\.py::test_\w+", tests):
            file, name = test.split("::")
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), test


def test_the_files_that_the_pages_name_exist():
    """A file in the tables of how it works, and of where which test is, is there."""
    for page, heading in (("riskbatch/README.md", "How it works"), ("tests/README.md", "Where which test is")):
        folder = (ROOT / page).parent
        for row in table(page, heading):
            for name in re.findall(r"`([\w/]+(?:\.py|/))`", row[0]):
                assert (folder / name).exists(), name
