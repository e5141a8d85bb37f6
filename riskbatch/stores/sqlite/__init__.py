"""Signals that outlive the process, in one SQLite file."""
