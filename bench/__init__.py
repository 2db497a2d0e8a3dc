"""Side-by-side timing of fastrnn and the other implementations: run `python -m bench` from the repository root."""
