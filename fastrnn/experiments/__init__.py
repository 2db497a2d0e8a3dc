"""The tasks, training loop and plots behind ``python -m fastrnn ...``."""
