"""Kernels that do nothing but multiply-add, or nothing but read: what the machine can do at best.

Both are written as explicit LLVM vector code, so that no compiler decision stands between the loop and the limit.
"""

from __future__ import annotations

from functools import lru_cache

import llvmlite.binding
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LLVM_TYPE = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
BYTES = {"float32": 4, "float64": 8}
INDEX = ir.IntType(64)


def host_features() -> dict[str, bool]:
    """Instruction sets of this processor by LLVM's names; empty where LLVM cannot tell."""
    try:
        return dict(llvmlite.binding.get_host_cpu_features())
    except RuntimeError:
        return {}


def vector_set(features: dict[str, bool]) -> tuple[str, int, int]:
    """The widest vector instructions: their name, the bytes and the number of their registers."""
    if features.get("avx512f"):
        return "AVX-512", 64, 32
    if features.get("avx2"):
        return "AVX2", 32, 16
    if features.get("neon"):
        return "NEON", 16, 32
    return "128-bit", 16, 16


VECTOR_NAME, VECTOR_BYTES, REGISTERS = vector_set(host_features())
CHAINS = 3 * REGISTERS // 4
"""Independent multiply-adds in flight: enough to hide their latency (4 cycles, 2 a cycle), with registers to spare."""
READS = REGISTERS // 2
"""Vectors read in one turn of the reading loop, each into a sum of its own."""


def lanes(dtype: str) -> int:
    """Numbers in one vector register."""
    return VECTOR_BYTES // BYTES[dtype]


@lru_cache
def multiply_add_kernel(dtype: str):
    """A compiled `kernel(buffer, turns)`: CHAINS vector multiply-adds in each turn, nothing read or written between.

    `buffer` ((CHAINS + 2) vectors) holds the sums at the start, which it gets back, then the factor and the addend.
    """
    vector = ir.VectorType(LLVM_TYPE[dtype], lanes(dtype))

    @intrinsic
    def loop(typing_context, buffer, turns):
        def generate(context, builder, signature, arguments):
            address = _vector_address(context, builder, signature.args[0], arguments[0], vector)
            # fmuladd, not fma: on a processor without fused multiply-add it is a product and a sum, not a library call
            fmuladd = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fmuladd.v{lanes(dtype)}f{8 * BYTES[dtype]}",
            )
            start = [_load(builder, address(k), dtype) for k in range(CHAINS + 2)]
            *sums, factor, addend = start

            def turn(_, sums):
                return [builder.call(fmuladd, [value, factor, addend]) for value in sums]

            for k, value in enumerate(_counted_loop(builder, arguments[1], 1, sums, turn)):
                _store(builder, value, address(k), dtype)
            return context.get_dummy_value()

        return types.void(buffer, turns), generate

    @njit(nogil=True)
    def kernel(buffer, turns):
        loop(buffer, turns)

    return kernel


@lru_cache
def reading_kernel():
    """A compiled `kernel(numbers, sums, times)`: reads all of `numbers` (float32, a multiple of READS vectors) `times`
    over, and adds them into `sums` (READS vectors)."""
    dtype = "float32"
    vector = ir.VectorType(LLVM_TYPE[dtype], lanes(dtype))

    @intrinsic
    def loop(typing_context, numbers, sums, vectors):
        def generate(context, builder, signature, arguments):
            source = _vector_address(context, builder, signature.args[0], arguments[0], vector)
            target = _vector_address(context, builder, signature.args[1], arguments[1], vector)

            def turn(index, sums):
                read = [_load(builder, source(builder.add(index, INDEX(k))), dtype) for k in range(READS)]
                return [builder.fadd(total, value) for total, value in zip(sums, read, strict=True)]

            start = [_load(builder, target(k), dtype) for k in range(READS)]
            for k, value in enumerate(_counted_loop(builder, arguments[2], READS, start, turn)):
                _store(builder, value, target(k), dtype)
            return context.get_dummy_value()

        return types.void(numbers, sums, vectors), generate

    count = lanes(dtype)

    @njit(nogil=True)
    def kernel(numbers, sums, times):
        for _ in range(times):
            loop(numbers, sums, numbers.size // count)

    return kernel


def _vector_address(context, builder, array_type, array, vector):
    """A function from a vector's number to its address in a Numba array."""
    data = context.make_array(array_type)(context, builder, array).data
    base = builder.bitcast(data, vector.as_pointer())

    def address(index):
        return builder.gep(base, [INDEX(index) if isinstance(index, int) else index])

    return address


def _load(builder, address, dtype):
    value = builder.load(address)
    value.align = BYTES[dtype]
    return value


def _store(builder, value, address, dtype):
    builder.store(value, address).align = BYTES[dtype]


def _counted_loop(builder, stop, step, values, turn):
    """Emit `index = 0; do values = turn(index, values); index += step while index < stop`; the values at the end."""
    before = builder.block
    body, after = builder.append_basic_block("turn"), builder.append_basic_block("after")
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(INDEX)
    index.add_incoming(INDEX(0), before)
    carried = [builder.phi(value.type) for value in values]
    for phi, value in zip(carried, values, strict=True):
        phi.add_incoming(value, before)
    results = turn(index, carried)
    following = builder.add(index, INDEX(step))
    index.add_incoming(following, body)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, body)
    builder.cbranch(builder.icmp_signed("<", following, stop), body, after)
    builder.position_at_end(after)
    return results
