"""The door of the command line: signals in, exit codes and one-line errors out.

Exit codes: 0 done; 1 a failure; 2 a bad request; 130 stopped by Ctrl-C (128 + the signal's number).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mochi.cli.interrupt import Interrupt
from mochi.cli.say import say, say_warnings
from mochi.core.errors import Cancelled, MochiError, RequestError

FAILURE, BAD_REQUEST = 1, 2


def main() -> int:
    """Run the command that this process was started with; returns the exit code."""
    say_warnings()
    return run(sys.argv[1:], Interrupt.install())


def run(argv: Sequence[str], interrupt: Interrupt) -> int:
    """Run one command; `argv` comes without the program's name.

    Returns:
        The exit code. An error of the user's or the world's is one line on stderr; a traceback
        is a bug of ours.
    """
    try:
        from mochi.cli.commands import invoke  # typer and rich: only now can they be interrupted

        code = invoke(argv, interrupt.token)
        interrupt.token.check()  # the library below may have turned the signal into a plain exit
        return code
    except (KeyboardInterrupt, Cancelled):
        # CPython takes a KeyboardInterrupt that passed through exec(), as imports do, for one that
        # nobody caught, and would end the process by a signal. The next exec() clears that note.
        exec("")
        say("stopped")
        return interrupt.exit_code
    except MochiError as error:
        say(f"error: {error}")
        return exit_code_of(error)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


def exit_code_of(error: MochiError) -> int:
    """2 for a request that breaks a rule, 1 for everything else that goes wrong."""
    return BAD_REQUEST if isinstance(error, RequestError) else FAILURE


if __name__ == "__main__":
    sys.exit(main())
