"""Packers for Lambda and frozen programs leave the package's metadata out."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import riskbatch as rb

CODE = """
import importlib.metadata, pathlib, sys
known = importlib.metadata.distribution
def distribution(name):
    if name == "riskbatch":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)
importlib.metadata.distribution = distribution
import riskbatch, riskbatch.cli, riskbatch.emulator, riskbatch.otel, riskbatch.testing, riskbatch.okta.providers
from riskbatch.okta.http import HEADERS
assert pathlib.Path(riskbatch.__file__).is_relative_to(sys.argv[1])
print(riskbatch.__version__, HEADERS["User-Agent"])
try:
    riskbatch.cli.main(["--version"])
except SystemExit:
    pass
"""


def test_all_is_imported_without_the_metadata(tmp_path):
    """The version stands in the package itself, for the User-Agent, the command line and OpenTelemetry."""
    shutil.copytree(Path(rb.__file__).parent, tmp_path / "riskbatch", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", CODE, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env={})
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{rb.__version__} riskbatch/{rb.__version__} python/3.")
    assert second == f"riskbatch {rb.__version__}"


def test_the_version_is_that_of_the_metadata():
    """There is one number."""
    assert rb.__version__ == version("riskbatch")
