"""Bad input ends a program with one line on stderr and exit status 2; any other exception shows its traceback."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable

# A full disk, a full quota and a file-size limit are no bugs of ours.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# numpy reports a full disk without an errno, by this message.
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
# Nor is a checkout that belongs to another user, or to a file system that is read-only.
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class InputError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do."""


class KilledError(InputError):
    """A process of the work was killed: what the others finished counts, and another run goes on from it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: "did you mean" the nearest known one, or the list of all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def exit_cleanly(main: Callable[[], None]) -> None:
    """Run `main`; bad input, a full disk and a forbidden file end the program with one line on stderr and status 2."""
    try:
        main()
    except InputError as error:
        _stop(str(error))
    except OSError as error:
        if error.errno in FORBIDDEN and error.filename:
            _stop(f"{error.filename}: {error.strerror}: run it as a user who may read and write there")
        if error.errno not in NO_ROOM and not SHORT_WRITE.fullmatch(str(error)):
            raise
        written = error.filename2 or error.filename  # of a copy the second
        where = f" {written}" if written else ""
        reason = error.strerror or str(error)
        _stop(f"no room left to write{where} ({reason}): free some space and run it again; nothing was kept")


def _stop(message: str) -> None:
    try:
        if sys.stderr is not None:  # as where it is closed
            sys.stderr.write(f"recurlm: {' '.join(message.split())}\n")
            sys.stderr.flush()
    except OSError:
        # Nobody can be told, but the status still can. Python's own flush at exit would change it to 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(2)
