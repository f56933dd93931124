"""The command `recurlm`: generate, fill, score and serve with a bundle, in an environment without torch; and `sync`.

recurlm generate --variant lstm --prompt "Once more" --max-new-tokens 200 --temperature 0.8 --seed 1
recurlm fill --variant bilstm "To be or ___ to be"
recurlm score --variant lstm --file my_text.txt
recurlm serve --variant lstm --precision int8
recurlm sync

Nothing is imported before `main`, so that Ctrl-C ends it quietly from its first line on. What comes before, Python's
own start of 20 ms and more, ends with Python's traceback.
"""

from __future__ import annotations

import sys

INTERRUPTED, PIPE_CLOSED = 130, 141  # as a shell reports a program that SIGINT or SIGPIPE ended


def main() -> None:
    """The entry point. Ctrl-C, and a closed pipe such as `head` leaves, end it without a message."""
    try:
        from recurlm.cli import streams
        from recurlm.cli.commands import run
        from recurlm.errors import exit_cleanly

        streams.reserve()
        exit_cleanly(run)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ImportError as error:
        # As the initialization of a module in C++ reports Ctrl-C.
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        streams.discard(sys.stdout)
        sys.exit(PIPE_CLOSED)
