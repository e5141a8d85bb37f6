"""The exit statuses of all commands, each with its meaning. `riskbatch --help` prints the table."""

DONE = 0
NOT_ACCEPTED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + the number of the signal, as shells report it; so are the next two
PIPE_BROKEN = 141
TERMINATED = 143

MEANINGS = {
    DONE: "done; send: every signal was accepted; doctor: nothing must be fixed",
    NOT_ACCEPTED: (
        "send, demo: a signal was not accepted; doctor: something must be fixed;\nqueue: there is no such fleet"
    ),
    USAGE: "an option, the configuration, a file, a store or the org prevents it;\nthe last line on stderr says which",
    INTERRUPTED: "stopped by Ctrl-C (SIGINT)",
    PIPE_BROKEN: "the reader of the output has closed it (SIGPIPE)",
    TERMINATED: "stopped by SIGTERM",
}


def table() -> str:
    """Return the table of exit statuses, which fits 80 columns."""
    rows = [f"  {status:<4} {meaning}".replace("\n", f"\n{'':7}") for status, meaning in MEANINGS.items()]
    return "\n".join(["exit status:", *rows])
