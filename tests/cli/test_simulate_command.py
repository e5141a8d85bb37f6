"""`riskbatch simulate`: its options, what it prints, and its errors."""

import io
import json
import re
from pathlib import Path

import pytest

import riskbatch.simulation
from riskbatch import RiskSignal
from riskbatch.cli import main

SHORT = ["simulate", "--high", "1/s", "--low", "90/m", "--for", "2m"]


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self):
        return True


def test_rates_and_bursts_are_simulated_and_the_report_says_which(capsys):
    """The report repeats traffic, budget and seed, and ends with the verdict."""
    assert main([*SHORT, "--burst", "50xHIGH/60s", "--seed", "3", "--compare", "--limit", "15/60s"]) == 0
    shown = capsys.readouterr().out
    assert "traffic  HIGH 1/s, LOW 1.5/s, 50 HIGH every 60 s; for 2 min" in shown
    assert "budget   15 requests in 60 s, fixed window, answers after 0.25 s" in shown
    assert "seed     3" in shown
    assert "PriorityQueue + AsyncLimiter" in shown
    assert "The budget is enough" in shown
    assert max(map(len, shown.splitlines())) < 80


def test_a_recorded_feed_is_replayed_and_bad_records_are_counted(tmp_path, capsys):
    """`--replay` reads what `send` reads; a record that is no signal is left out."""
    feed = tmp_path / "feed\x1b[31m.jsonl"
    lines = [RiskSignal("10.0.0.1", "HIGH").to_json(), {"ip": "nobody"}, RiskSignal("10.0.0.2", "LOW").to_json()]
    feed.write_text("\n".join(map(json.dumps, lines)))
    assert main(["simulate", "--replay", str(feed)]) == 0
    captured = capsys.readouterr()
    assert "2 accepted" in captured.out
    assert "1 record of " in captured.err
    assert "\x1b" not in captured.out + captured.err, "the name of a file must not control the terminal"


def test_json_is_one_object(capsys):
    """`--json` prints the setting and the numbers as one object, and nothing else."""
    assert main([*SHORT, "--json", "--compare", "--coalesce"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["budget"] == {"requests": 30, "period": 60.0}
    assert (told["seed"], told["seconds"], told["window"], told["is_enough"]) == (0, 120.0, "fixed", True)
    assert told["client"] == {"reserve": 3, "subjects_per_event": 1, "coalesce": True, "capacity": 1_000_000}
    assert len(told["clients"]) == 3
    assert told["clients"][0]["levels"]["HIGH"]["p95"] > 0


def test_a_terminal_shows_the_progress_and_keeps_nothing_of_it(monkeypatch, capsys):
    """On a terminal one line says how far the simulation is; a file gets no such lines."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert main(SHORT) == 0
    assert "simulating riskbatch: 50%" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")
    monkeypatch.undo()
    assert main(SHORT) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["waits.doc", "nowhere/waits.png", "\x1b[31m.doc"])
def test_a_plot_that_cannot_be_written_is_refused_before_the_simulation_runs(name, tmp_path, monkeypatch, capsys):
    """Nobody waits for a picture in vain."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("riskbatch.simulation.Simulation.run", None)
    assert main([*SHORT, "--plot", name]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("riskbatch: error: --plot ")
    assert "\x1b" not in captured.err
    assert len(captured.err.splitlines()) == 1


def test_the_plot_is_drawn(tmp_path):
    """`--plot` writes the picture beside the report."""
    assert main([*SHORT, "--plot", str(tmp_path / "waits.png")]) == 0
    assert (tmp_path / "waits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments", [[], ["--high", "many"], ["--burst", "300HIGH"], ["--for", "0s"], ["--replay", "/nowhere.jsonl"]]
)
def test_traffic_that_makes_no_sense_is_refused_in_one_line(arguments, capsys):
    """A usage error exits with 2 and says what would be right."""
    assert main(["simulate", *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_page_shows_what_the_command_prints(capsys):
    """The example of the simulation's README is what the command prints today, and its options exist."""
    page = Path(riskbatch.simulation.__file__).with_name("README.md").read_text()
    (command,) = re.findall(r"```sh\nriskbatch (.*)\n```", page)
    (output,) = re.findall(r"```text\n(.*?)```", page, re.S)
    assert main(command.split()) == 0
    assert capsys.readouterr().out == output
    assert main(["simulate", "--help"]) == 0
    shown = capsys.readouterr().out
    assert [option for option in re.findall(r"--[a-z-]+", page) if option not in shown] == []
    assert len(page.split()) <= 400
