"""
`python -m benchmarks`: one table of what riskbatch costs, beside what people would use instead.

Every module here that has a function `rows` adds its own; the others print tables of their own kind. The peers are in
the extra `[bench]`, and one that is not installed has a row that says so. Each module has a process of its own, because
what one imports is a burden to the next one's garbage collector. It takes some ten minutes and the whole machine;
`python -m benchmarks models hour` runs only those.
"""

import pkgutil
import platform
import sys
from collections.abc import Iterator
from os import cpu_count

import benchmarks
from benchmarks.table import Row, apart, rows_of, show


def rows(chosen: list[str]) -> Iterator[Row]:
    """Yield the rows of the *chosen* modules, or of all."""
    for name in chosen or sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__)):
        if name != "__main__":
            yield from apart(rows_of, name)


if __name__ == "__main__":
    print(f"Python {platform.python_version()} on {cpu_count()} cores of {platform.machine()}; medians of 5 rounds")
    show(rows(sys.argv[1:]))
