"""
`riskbatch completion`: a script that completes commands, verbs, options and file names in bash or zsh.

The script is made from the parsers, and starts no riskbatch when a user presses Tab.
"""

import argparse
import shlex
import textwrap
from collections.abc import Iterator

import riskbatch as rb

from .exits import DONE
from .options import explain

HELP = "print a completion script for bash or zsh"

_FILES = ("FILE", "STORE")  # the metavars of names of files begin so

_BASH = """\
# riskbatch {version}: completion for bash. After an update of riskbatch, print it again.
_riskbatch() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} command= words= index
  for ((index = 1; index < COMP_CWORD; index++)); do
    case "$command ${{COMP_WORDS[index]}}" in
{commands}
    esac
  done
  case "$command ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
    *) case "$command" in
{words}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _riskbatch riskbatch
"""

_ZSH_GROUP = """\
{function}() {{
  local state
  local -a names
  _arguments -C {options} '1: :->name' '*:: :->rest'
  case $state in
    name) names=({names}); _describe -t commands command names ;;
    rest) (( $+functions[{function}_$words[1]] )) && {function}_$words[1] ;;
  esac
}}
"""

_ZSH = """\
#compdef riskbatch
# riskbatch {version}: completion for zsh. After an update of riskbatch, print it again.
{functions}
if [[ $funcstack[1] == _riskbatch ]]; then
  _riskbatch "$@"  # autoloaded from a file _riskbatch in $fpath
else
  compdef _riskbatch riskbatch
fi
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to *parser*."""
    explain(
        parser,
        """\
Print a script for the shell. With it, the Tab key completes the commands of
riskbatch, their options and names of files.""",
        'eval "$(riskbatch completion bash)"        in ~/.bashrc',
        'eval "$(riskbatch completion zsh)"         in ~/.zshrc, after compinit',
        "riskbatch completion zsh > ~/.zfunc/_riskbatch   or in a folder of $fpath",
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="for which shell")


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status."""
    from .main import command_line  # noqa: PLC0415 - main imports this module

    parsers = dict(_parsers((), command_line()))
    print(_bash(parsers) if options.shell == "bash" else _zsh(parsers), end="")
    return DONE


_Path = tuple[str, ...]


def _parsers(path: _Path, parser: argparse.ArgumentParser) -> Iterator[tuple[_Path, argparse.ArgumentParser]]:
    """Yield *parser* and those of its commands and their verbs, each with the words that lead to it."""
    from .main import Parser  # noqa: PLC0415 - as above

    if isinstance(parser, Parser):
        parser.load()
    yield path, parser
    for name, each in _subparsers(parser).items():
        yield from _parsers((*path, name), each)


def _group(parser: argparse.ArgumentParser) -> "argparse._SubParsersAction[argparse.ArgumentParser] | None":
    """Return what holds the commands or verbs of *parser*."""
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    group = _group(parser)
    return dict(group.choices) if group else {}


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def _positionals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not action.option_strings and action is not _group(parser)]


# -- bash


def _bash(parsers: dict[_Path, argparse.ArgumentParser]) -> str:
    """Return the script. Where it finds no words, bash completes names of files by itself (`-o default`)."""
    commands = [f'      "{" ".join(("", *path)[-2:])}") command="{" ".join(path)}" ;;' for path in parsers if path]
    values = [line for path, parser in parsers.items() for line in _bash_values(" ".join(path), parser)]
    words = [_bash_words(" ".join(path), parser) for path, parser in parsers.items()]
    return _BASH.format(
        version=rb.__version__, commands="\n".join(commands), values="\n".join(values), words="\n".join(words)
    )


def _bash_values(command: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a case for each set of values: the options that take a value, and the words that may be the value."""
    options: dict[str, list[str]] = {}
    for action in _options(parser):
        if action.nargs != 0:
            words = " ".join(map(str, action.choices or ()))
            options.setdefault(words, []).extend(f'"{command} {name}"' for name in action.option_strings)
    for words, names in options.items():
        yield f'    {"|".join(names)}) words="{words}" ;;'


def _bash_words(command: str, parser: argparse.ArgumentParser) -> str:
    options = [name for action in _options(parser) for name in action.option_strings if name.startswith("--")]
    names = [*_subparsers(parser), *(str(each) for action in _positionals(parser) for each in action.choices or ())]
    takes_file = any(_is_file(action) for action in _positionals(parser))
    condition = "[[ $current == -* ]] && " if takes_file else ""
    return f'      "{command}") {condition}words="{" ".join([*names, *options])}" ;;'


def _is_file(action: argparse.Action) -> bool:
    return str(action.metavar or "").startswith(_FILES)


# -- zsh


def _zsh(parsers: dict[_Path, argparse.ArgumentParser]) -> str:
    functions = "".join(_zsh_function("_".join(("_riskbatch", *path)), parser) for path, parser in parsers.items())
    return _ZSH.format(version=rb.__version__, functions=functions)


def _zsh_function(function: str, parser: argparse.ArgumentParser) -> str:
    options = " ".join(_zsh_option(action) for action in _options(parser))
    names = _zsh_names(parser)
    if names:
        return _ZSH_GROUP.format(function=function, options=options, names=names)
    rest = " ".join(_zsh_positional(action) for action in _positionals(parser))
    return f"{function}() {{ _arguments {options} {rest}; }}\n"


def _zsh_names(parser: argparse.ArgumentParser) -> str:
    if (group := _group(parser)) is None:
        return ""
    return " ".join(shlex.quote(f"{each.dest}:{each.help or ''}") for each in group._choices_actions)


def _zsh_option(action: argparse.Action) -> str:
    again = "*" if isinstance(action, argparse._AppendAction) else ""
    value = "" if action.nargs == 0 else f":{_zsh_text(str(action.metavar or action.dest))}:{_zsh_values(action)}"
    return " ".join(
        shlex.quote(f"{again}{name}[{_zsh_text(action.help or '')}]{value}") for name in action.option_strings
    )


def _zsh_positional(action: argparse.Action) -> str:
    optional = ":" if action.nargs == "?" else ""
    return shlex.quote(f":{optional}{_zsh_text(str(action.metavar or action.dest))}:{_zsh_values(action)}")


def _zsh_values(action: argparse.Action) -> str:
    if action.choices:
        return f"({' '.join(map(str, action.choices))})"
    return "_files" if _is_file(action) else ""


def _zsh_text(text: str) -> str:
    """Return *text* as one short line in which zsh finds no end of a description."""
    line = textwrap.shorten(text, 70, placeholder=" ...")
    return "".join(f"\\{char}" if char in "[]:\\" else char for char in line)
