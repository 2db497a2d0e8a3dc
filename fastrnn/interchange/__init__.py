"""Weights and models from and to other systems, a module for each: PyTorch, Keras, ONNX, safetensors.

Their public functions are names of `fastrnn` itself. Each imports its system where it uses it.
"""
