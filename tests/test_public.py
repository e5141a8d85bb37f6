"""What users may rely on: the names, their documentation, and the house they live in."""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from importlib.resources import files
from pathlib import Path
from types import FunctionType

import pytest

import riskbatch

HOUSE = Path(riskbatch.__file__).parent
# From the first to the last; a room imports only what stands before it. A wing is one room. The emulator stands apart.
ORDER = """
version errors alarm backoff log signals threads receipts okta batcher probes prioritizer limiter capacity books queue
trouble dispatcher sender stores statistics arguments lifespan client __init__ testing otel simulation cli __main__
"""
ORDER = re.findall(r"\w+", ORDER)

PURE = [
    "errors",
    "signals",
    "cli/records",
    "cli/formats/table",
    "backoff",
    "trouble",
    "probes",
    "prioritizer",
    "batcher",
    "okta/auth",
]
PURE += [f"okta/{name}" for name in ("http", "risk_events", "verdicts", "rate_limits", "error_bodies", "redaction")]
PURE += ["okta/credentials"]
CORE = {"aiohttp", "attrs", "cattrs", "aiolimiter", "multidict", "yarl"}  # aiohttp brings the last two


def rooms():
    """Return every module: its path inside the house, and its file."""
    return {str(path.relative_to(HOUSE).with_suffix("")): path for path in HOUSE.rglob("*.py")}


def imports(path):
    """Return the rooms and the top-level packages that a file imports; a wing does not import itself."""
    inside, outside = set(), set()
    place = path.relative_to(HOUSE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = place[: len(place) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            inside |= {(*base, *name.split("."))[0] for name in names}
        elif isinstance(node, ast.ImportFrom):
            outside.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
    if len(place) > 1:
        inside.discard(place[0])
    return inside, outside


def test_imports_point_one_way():
    """A room knows only those before it, so that the file list can be read from first to last."""
    for name, path in rooms().items():
        room = name.split("/")[0]
        inside, outside = imports(path)
        if "riskbatch" in outside:
            inside.add("__init__")
        if room == "emulator":
            assert not inside, "a mistake in the library must not pass in the emulator too"
            continue
        assert "emulator" not in inside or room in ("simulation", "cli", "testing")
        late = {other for other in inside - {"emulator"} if ORDER.index(other) >= ORDER.index(room)}
        assert not late, f"{name} imports {late}"


@pytest.mark.parametrize("name", PURE)
def test_pure_rooms_wait_for_nothing(name):
    """Pure files import neither aiohttp, asyncio nor a clock, and contain no `await`."""
    path = HOUSE / f"{name}.py"
    _, outside = imports(path)
    assert not outside & {"aiohttp", "asyncio", "time", "aiolimiter", "sched", "threading"}
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, waits)]


def test_only_a_signal_reads_the_wall_clock_among_the_pure():
    """Decisions take `now`; the one exception is the timestamp a signal has by default."""
    readers = {
        name
        for name in PURE
        for node in ast.walk(ast.parse((HOUSE / f"{name}.py").read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today", "monotonic", "time")
    }
    assert readers <= {"signals"}


def test_the_core_needs_four_packages_and_no_more():
    """Outside the emulator, the library imports the standard library, aiohttp, attrs, cattrs and aiolimiter."""
    extras = {
        "otel": {"opentelemetry"},
        "simulation/plot": {"matplotlib"},
        "okta/keys": {"joserfc"},
        "okta/oauth": {"joserfc"},
        "emulator/jwt": {"cryptography"},
        "cli/emulate": {"joserfc"},
        "testing/plugin": {"pytest"},
        "stores/valkey/engine": {"valkey"},
    }
    for name, path in rooms().items():
        _, outside = imports(path)
        assert outside - extras.get(name, set()) - {"riskbatch"} <= CORE | set(sys.stdlib_module_names), name


def test_all_is_what_can_be_imported():
    """`__all__` names every public class and function of the package, once each."""
    names = riskbatch.__all__
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(riskbatch, name) is not None
    assert set(dir(riskbatch)) == set(names)


def test_type_checkers_read_the_names_that_can_be_imported():
    """A name's module is imported when the name is used; what type checkers read instead is the same as `__all__`."""
    block = next(node for node in ast.parse((HOUSE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    imported = [alias.name for node in block.body for alias in node.names]
    assert sorted(imported) == sorted(riskbatch.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    """A mistyped name fails as in any module."""
    with pytest.raises(AttributeError, match="module 'riskbatch' has no attribute 'Cleint'"):
        riskbatch.Cleint  # noqa: B018 - the access is what fails


def test_the_contract_is_there():
    """The names that users and their checks rely on."""
    contract = """
        Client Statistics RateLimit ApiToken RiskLevel RiskSignal parse_signals Receipt
        Outcome Accepted Rejected Expired Shed Superseded Abandoned
        RiskbatchError InvalidSignal QueueFull ClientClosed AuthError ConfigurationError WrongLoop
    """
    assert set(contract.split()) <= set(riskbatch.__all__)


def members(owner):
    for name, value in vars(owner).items():
        function = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        if not name.startswith("_") and isinstance(function, FunctionType):
            yield f"{owner.__name__}.{name}", function


def documented():
    for name in riskbatch.__all__:
        value = getattr(riskbatch, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value):
            yield from members(value)


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_says_what_it_is(name):
    """Every public name and method has a docstring of its own."""
    value = DOCUMENTED[name]
    doc = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    assert doc
    assert not doc.startswith("Method generated by attrs")
    first = doc.strip().splitlines()[0]
    assert first[0].isupper() or first[0] == "`"


# What users call: a class stands for its constructor.
CALLED = re.findall(
    r"\S+",
    """
    Client Client.from_env Client.enqueue Client.enqueue_nowait Client.enqueue_many Client.enqueue_threadsafe
    Client.flush Client.aclose Client.statistics Client.statistics_threadsafe Client.observe
    Receipt.done Receipt.wait_threadsafe RiskSignal RiskSignal.from_json RiskSignal.to_json parse_signals
    ServiceApp RateLimit Limiter SqliteStore
    okta.providers.Providers okta.providers.Providers.from_env okta.providers.Providers.list
    okta.providers.Providers.create okta.providers.Providers.update testing.RecordingTransport testing.serve_okta
    otel.instrument otel.Instrumentation.uninstrument emulator.OktaEmulator emulator.OktaEmulator.url
    emulator.OktaEmulator.spend emulator.OktaEmulator.most_in_any_window
    """,
)


def called(name):
    """The function behind a name, and the docstring that must explain it."""
    *modules, rest = re.fullmatch(r"((?:[a-z]+\.)*)(.+)", name).groups()
    module = ".".join(["riskbatch", *modules[0].split(".")]).rstrip(".")
    found = importlib.import_module(module)
    for part in rest.split("."):
        found = getattr(found, part)
    function = found.__init__ if inspect.isclass(found) else getattr(found, "fget", found)
    return inspect.unwrap(function), inspect.getdoc(found) or ""


def test_every_method_of_a_client_is_looked_at():
    """A new one cannot be forgotten here."""
    methods = {name for name, _ in members(riskbatch.Client)} - {"Client.org_url"}
    assert methods <= set(CALLED)


@pytest.mark.parametrize("name", CALLED)
def test_every_parameter_is_explained_and_every_duration_has_its_unit(name):
    """A reader of the docstring knows what each argument is; what is a time says that it is seconds."""
    function, doc = called(name)
    for parameter in inspect.signature(function).parameters:
        if parameter not in ("self", "cls", "args", "kwargs"):
            assert re.search(rf"\b{parameter}\b", doc), parameter
        if parameter in ("timeout", "close_timeout", "linger", "latency", "period"):
            assert re.search(r"\bseconds\b", doc, re.I), parameter


@pytest.mark.parametrize("name", CALLED)
def test_what_is_raised_is_documented(name):
    """Whatever a public function raises by itself, of ours or of Python's, stands in its docstring."""
    function, doc = called(name)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, IndentationError):  # made by attrs
        return
    for node in ast.walk(tree):
        raised = node.exc.func if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
        if isinstance(raised, ast.Name):
            assert raised.id in doc, raised.id


@pytest.mark.parametrize(
    "module",
    [
        "okta/risk_events",
        "okta/verdicts",
        "okta/rate_limits",
        "okta/error_bodies",
        "okta/auth",
        "okta/providers",
        "okta/oauth",
        "okta/keys",
        "emulator/org",
        "signals",
        "limiter",
    ],
)
def test_what_is_okta_s_has_its_source(module):
    """Where a fact about Okta comes from, and of which day it is, can be looked up."""
    text = (HOUSE / f"{module}.py").read_text()
    assert re.search(r"read 20\d\d-\d\d-\d\d|RFC \d{4}|issue \d+|\[(SPEC|LIMITS|ERRORS)\]|Source:", text)


def test_the_types_are_shipped():
    """`py.typed` tells type checkers that the annotations are to be believed."""
    assert files("riskbatch").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", [n for n in riskbatch.__all__ if n.endswith(("Error", "Full", "Closed", "Loop"))])
def test_every_error_has_one_root(name):
    """`except RiskbatchError` catches everything this package raises on purpose."""
    assert issubclass(getattr(riskbatch, name), riskbatch.RiskbatchError)
    assert issubclass(riskbatch.InvalidSignal, riskbatch.RiskbatchError)


def test_statistics_explain_every_field():
    """Each field of a snapshot is documented, and the snapshot is frozen."""
    statistics = riskbatch.Statistics()
    for field in riskbatch.Statistics.__attrs_attrs__:
        assert f"        {field.name}: " in riskbatch.Statistics.__doc__
    with pytest.raises(AttributeError):
        statistics.admitted = 1
    assert statistics.settled == 0
