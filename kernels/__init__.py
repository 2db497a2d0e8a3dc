"""The compiled kernels. They fill buffers; allocation and validation belong to the layer above."""
