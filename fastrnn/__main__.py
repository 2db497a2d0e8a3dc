"""The command line: `python -m fastrnn`."""

import argparse
import signal
import sys
from importlib import import_module

from . import __version__

# Each command's module has add_arguments(parser) and run(arguments) -> exit status, and is imported only for it.
COMMANDS = {
    "demo": ("fastrnn.experiments.demo", "train a character model on Python's language reference, and let it write"),
    "check": ("fastrnn.check", "compare the kernels with the reference on this machine"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status; exits with 2 if the arguments are wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m fastrnn", description="LSTM, GRU and plain RNN layers.")
    parser.add_argument("--version", action="version", version=f"fastrnn {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (module, description) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=description, description=description[0].upper() + description[1:])
        if given[:1] == [name]:
            command = import_module(module)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    try:
        parsed = parser.parse_args(given)
        return parsed.run(parsed)
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
