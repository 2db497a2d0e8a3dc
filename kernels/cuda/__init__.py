"""The CUDA kernels: the gate formulas of `kernels/cells.py`, compiled for the threads of an NVIDIA GPU.

`plan` needs neither Numba nor a GPU. Every other module imports `numba.cuda`, so they are imported only when a layer
with device="cuda" is made, or a test asks for the compiler or the simulator.
"""
