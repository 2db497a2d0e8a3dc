"""The commands of `python -m fastrnn` that are no experiments, and what all of them show and read numbers with."""
