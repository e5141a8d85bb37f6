"""What a simulation tells: the report, the verdict, the JSON object and the picture."""

import json
import re
import sys

import pytest

from riskbatch import ConfigurationError, RateLimit, RiskLevel
from riskbatch.simulation import Result, report, to_json, verdict
from riskbatch.simulation.plot import check_plot, plot

HIGH, MEDIUM, LOW = RiskLevel
SETTING = {"traffic": "HIGH 1/s, LOW 40/s; for 60 min", "budget": "30 requests in 60 s", "seed": "7"}


def result(name="riskbatch", *, low=4_000_000, sent=2_000_000):
    """Return a result of an hour with numbers as wide as they get."""
    made = Result(name, 3600.0, RateLimit())
    made.arrived |= {HIGH: 2, LOW: low}
    made.waits[HIGH] = [(10.0, 0.5), (20.0, 1.5)]
    made.waits[LOW] = [(30.0, 12345.6)] * sent
    made.ended = {"accepted": 2 + sent, "superseded": 1, "waiting": low - sent}
    made.requests = [float(second) for second in range(0, 3600, 2)]
    made.most_in_window, made.refusals = 30, 1234
    return made


def test_the_report_fits_80_columns_however_long_its_numbers_and_texts_are():
    """No line of the report wraps on a terminal of 80 columns."""
    setting = {**SETTING, "traffic": ", ".join(f"{count} HIGH every {count} s" for count in range(100, 130))}
    text = report([result(), result("PriorityQueue + AsyncLimiter")], setting)
    assert max(map(len, text.splitlines())) < 80


def test_the_report_repeats_what_was_simulated():
    """Traffic, budget and seed stand above the table, so that a saved report explains itself."""
    lines = report([result()], SETTING).splitlines()
    assert lines[:3] == [
        "traffic  HIGH 1/s, LOW 40/s; for 60 min",
        "budget   30 requests in 60 s",
        "seed     7",
    ]


def test_the_report_shows_every_client_and_each_level_that_came():
    """The table has a row for each level that came, under each client."""
    text = report([result(), result("FIFO + AsyncLimiter")], SETTING)
    assert len(re.findall(r"^  HIGH  +2  +2  +1\.0  +1\.5  +1\.5  +1\.5  +1\.5$", text, re.M)) == 2
    assert "MEDIUM" not in text
    assert text.count("1,234 answered 429") == 2
    assert text.count("2,000,002 accepted, 0 expired, 0 shed, 1 superseded,") == 2


def test_the_verdict_answers_whether_the_budget_is_enough():
    """One sentence says yes or no, and which levels wait."""
    assert "NOT enough: 1111.1 signals arrive a second" in verdict(result())
    assert verdict(result()).endswith("What stays behind is LOW.")
    assert "is enough" in verdict(result(low=1_000, sent=1_000))


def test_a_budget_that_delivers_everything_is_enough_whatever_arrives():
    """Signals that share an event, or replace each other, can be more than one an event."""
    assert "is enough" in verdict(result(low=2_000_000, sent=2_000_000))


def test_the_json_object_has_the_numbers_of_the_report():
    """One object: the setting, whether the budget is enough, and the numbers of each client; nothing is NaN."""
    empty = Result("nobody", 60.0, RateLimit())
    empty.ended = {"waiting": 1}
    empty.arrived[LOW] = 1
    told = json.loads(json.dumps(to_json([result(), empty], {"seed": 7}), allow_nan=False))
    assert (told["seed"], told["is_enough"]) == (7, False)
    assert told["clients"][0]["levels"]["HIGH"] == {
        "arrived": 2,
        "sent": 2,
        "mean": 1.0,
        "median": 1.5,
        "p95": 1.5,
        "p99": 1.5,
        "max": 1.5,
    }
    assert told["clients"][0]["most_in_window"] == 30
    assert told["clients"][1]["levels"]["LOW"]["p95"] is None
    assert told["clients"][1]["fill"] is None


@pytest.mark.parametrize("suffix", ["png", "svg", "PDF"])
def test_a_picture_is_drawn(suffix, tmp_path):
    """`plot` writes a picture, also of a level of which nothing was sent."""
    path = tmp_path / f"waits.{suffix}"
    check_plot(str(path))
    unsent = result("unsent", sent=0)
    plot([result(sent=100), unsent], str(path), "traffic: HIGH 1/s\nseed: 7")
    assert path.stat().st_size > 1_000


def test_the_picture_shows_the_budget_the_95th_percentile_and_what_was_simulated(tmp_path):
    """The texts that one looks for stand in the picture, and HIGH stands above LOW."""
    path = tmp_path / "waits.svg"
    plot([result(sent=100)], str(path), "traffic: HIGH 1/s\nseed: 7")
    comments = re.findall(r"<!-- (.*?) -->", path.read_text())  # in an SVG of matplotlib, each text has one
    assert {"budget 30; 1,234 answered 429", "p95 1.5 s", "p95 12,345.6 s", "seed: 7"} <= set(comments)
    panels = [comment for comment in comments if comment in ("HIGH", "LOW")]
    assert panels[0] == "HIGH"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("waits", "must end in one of"),
        ("waits.doc", "must end in one of"),
        ("nowhere/waits.png", "there is no folder"),
        ("folder.png", "cannot be written"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused(name, reason, tmp_path, monkeypatch):
    """Suffix and folder are checked before the simulation runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigurationError, match=reason):
        check_plot(name)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    """The command that helps stands in the error."""
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match="pip install matplotlib"):
        check_plot("waits.png")
