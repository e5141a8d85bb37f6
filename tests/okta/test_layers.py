"""The wing can be read from the first file to the last."""

import ast
import re
from pathlib import Path

import riskbatch.okta

WING = Path(riskbatch.okta.__file__).parent
# Each imports only what stands before it, also inside of functions.
ORDER = re.findall(
    r"\w+",
    """
    http redaction risk_events rate_limits error_bodies verdicts credentials keys oauth auth environment renewal proxies
    transport providers findings checkup
    """,
)


def test_no_file_imports_a_later_one():
    """There is no circle in the wing, not even one that is hidden in a function."""
    assert {path.stem for path in WING.glob("*.py")} - {"__init__"} == set(ORDER)
    for path in WING.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                imported = {node.module} if node.module else {alias.name for alias in node.names}
                later = set(ORDER[ORDER.index(path.stem) :])
                assert not imported & later, f"{path.stem} imports {imported & later}"
