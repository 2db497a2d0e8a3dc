"""The command line: `python -m fastrnn`."""

import argparse
import errno
import os
import signal
import sys
from importlib import import_module

from . import __version__
from .commands import INTERRUPTED
from .kernels.interrupts import interrupts_wait
from .threads import get_num_threads

# Each command's module has add_arguments(parser) and run(arguments) -> exit status, and is imported only for it.
COMMANDS = {
    "demo": ("fastrnn.experiments.demo", "train a character model on Python's language reference, and let it write"),
    "check": ("fastrnn.commands.check", "compare the kernels with the reference on this machine"),
    "warmup": ("fastrnn.commands.warmup", "compile the kernels ahead, and keep them on disk"),
    "compare": ("fastrnn.experiments.compare.command", "test what is said about RNN, GRU and LSTM, on several tasks"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status; exits with 2 if the arguments are wrong."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        if error.errno == errno.ENOSPC:  # as of /dev/full; that nobody reads on is no error
            print(f"python -m fastrnn: error: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at exit
        return 1


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastrnn", description="LSTM, GRU and plain RNN layers.")
    parser.add_argument("--version", action="version", version=f"fastrnn {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (module, purpose) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        if arguments[:1] == [name]:
            command = import_module(module)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    parsed = parser.parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # texts and names of files are not all ASCII, and the terminal may be
    try:
        get_num_threads()
        with interrupts_wait():
            from .kernels import options  # noqa: F401  and Numba
    except (RuntimeError, ValueError) as wrong:  # an environment variable, theirs or Numba's
        parser.error(str(wrong))
    return parsed.run(parsed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        # all that is left is to exit: Python would show a traceback of that, or die of the signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
