"""The pages of the documents: their text, their tables and their blocks of code."""

import re
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parent.parent
FOLDERS = ("riskbatch", "tests", "benchmarks")
PAGES = [ROOT / "README.md", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]


@frozen
class Block:
    """A block of code: the page and the number of its line, its language, and its text without indentation."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose_of(page: str) -> str:
    """Return the page without its blocks of code."""
    return re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages that have one of *languages*; all blocks if none is given."""
    found = []
    for page in map(name_of, PAGES):
        text = text_of(page)
        for match in re.finditer(r"^( *)```(\S*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
            indent, language, code = match.groups()
            code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
            found.append(Block(page, text.count("\n", 0, match.start()) + 1, language, code))
    return [block for block in found if not languages or block.language in languages]


def section(page: str, heading: str) -> str:
    """Return what is below *heading*, up to the next heading of its rank or a higher one."""
    text = text_of(page)
    match = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert match is not None, f"{page} has no heading {heading!r}"
    rest = text[match.end() :]
    return re.split(rf"^#{{1,{len(match[1])}}} ", rest, flags=re.MULTILINE)[0]


def table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table below *heading*, without its head; a cell is its text."""
    lines = section(page, heading).splitlines()
    first = next(number for number, line in enumerate(lines) if re.fullmatch(r"\|[-|]+\|", line)) + 1
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def code(cell: str) -> str:
    """Return the first text in back quotes."""
    found = re.search(r"`([^`]+)`", cell)
    assert found is not None, cell
    return found[1]
