"""Options that the command lines share."""

from __future__ import annotations

import argparse

from fastrnn.processor import processors


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="thread counts; 1, 2 and all by default")


def refuse_threads(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program if a thread count cannot be had here."""
    if any(not 1 <= n <= processors() for n in options.threads or ()):
        parser.error(f"--threads: expected counts of 1 to {processors()}, the cores of this machine")
