"""All that needs an NVIDIA GPU: the device tests, the limits of the device, and the layers beside cuDNN."""

PROGRAM = "python -m bench --device cuda"
