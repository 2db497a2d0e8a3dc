"""The commands of `python -m fastrnn` that are no experiments, and what all of them show and read numbers with."""

import signal

INTERRUPTED = 128 + signal.SIGINT  # the exit status of a command that Ctrl-C has ended, as shells have it
