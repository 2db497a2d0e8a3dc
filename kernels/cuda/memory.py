"""Numbers in a GPU's global memory, reached by plain addresses (int64): what is compiled.

A launch pays for every array among its arguments, so the kernels take addresses, and a table of addresses in the
device's own memory. `simulated.py` has the same names for the simulator.

A number is stored as float32, float64, float16 or bfloat16, and is a `Real` of 32 bits, or 64 for float64, once loaded.
"""

from functools import cache

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

from .planes import ITEMSIZE
from .real import I16, I32, I64, Real

device = cuda.jit(device=True, forceinline=True)
kernel = cuda.jit

_GLOBAL = 1  # LLVM's number of that address space
_STORED = {"float32": ir.FloatType(), "float64": ir.DoubleType(), "float16": ir.HalfType(), "bfloat16": I16}
_ASSEMBLY = {32: ("b32", "r", I32), 64: ("b64", "l", I64), 16: ("b16", "h", I16)}


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer(_GLOBAL))


def load_stored(builder, dtype, address):
    """The number stored at an address, as a Real."""
    return _widen(builder, dtype, builder.load(_pointer(builder, address, _STORED[dtype])))


def _widen(builder, dtype, value):
    """A stored number as a Real."""
    if dtype == "float16":
        return builder.fpext(value, ir.FloatType())
    if dtype == "bfloat16":
        return builder.bitcast(builder.shl(builder.zext(value, I32), ir.Constant(I32, 16)), ir.FloatType())
    return value


def _narrow(builder, dtype, value):
    """A Real as it is stored, rounded to the nearest, ties to even; NaN stays NaN."""
    if dtype == "float16":
        return builder.fptrunc(value, ir.HalfType())
    if dtype == "bfloat16":
        bits = builder.bitcast(value, I32)
        last = builder.and_(builder.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
        rounded = builder.add(bits, builder.add(last, ir.Constant(I32, 0x7FFF)))
        is_nan = builder.fcmp_unordered("uno", value, value)
        chosen = builder.select(is_nan, ir.Constant(I32, 0x7FFF0000), rounded)
        return builder.trunc(builder.lshr(chosen, ir.Constant(I32, 16)), I16)
    return value


@cache
def real(dtype: str) -> Real:
    """What a number stored as `dtype` is once loaded."""
    return Real(64 if dtype == "float64" else 32)


def plain(dtype: str) -> types.Type:
    """The type of such a number in shared memory."""
    return real(dtype).numba


@cache
def loader(dtype: str):
    """load(address): the number there."""

    @intrinsic
    def load(typing, address):
        def lower(context, builder, sig, args):
            return load_stored(builder, dtype, args[0])

        return real(dtype)(types.int64), lower

    return load


@cache
def storer(dtype: str):
    """store(address, number)."""

    @intrinsic
    def store(typing, address, value):
        def lower(context, builder, sig, args):
            builder.store(_narrow(builder, dtype, args[1]), _pointer(builder, args[0], _STORED[dtype]))
            return context.get_dummy_value()

        return types.void(types.int64, value), lower

    return store


@cache
def exchange_loader(dtype: str):
    """load(address) of what another block has written since the launch: from the second-level cache, which all share.

    Volatile to the compiler: it stays behind the barrier that it follows.
    """

    @intrinsic
    def load(typing, address):
        def lower(context, builder, sig, args):
            name, register, integer = _ASSEMBLY[8 * ITEMSIZE[dtype]]
            assembly = ir.InlineAsm(
                ir.FunctionType(integer, [I64]),
                f"ld.global.cg.{name} $0, [$1];",
                f"={register},l,~{{memory}}",
                side_effect=True,
            )
            return _widen(builder, dtype, builder.bitcast(builder.call(assembly, args), _STORED[dtype]))

        return real(dtype)(types.int64), lower

    return load


@cache
def exchange_storer(dtype: str):
    """store(address, number) for other blocks: to the second-level cache."""

    @intrinsic
    def store(typing, address, value):
        def lower(context, builder, sig, args):
            name, register, integer = _ASSEMBLY[8 * ITEMSIZE[dtype]]
            assembly = ir.InlineAsm(
                ir.FunctionType(ir.VoidType(), [I64, integer]),
                f"st.global.cg.{name} [$0], $1;",
                f"l,{register},~{{memory}}",
                side_effect=True,
            )
            builder.call(assembly, [args[0], builder.bitcast(_narrow(builder, dtype, args[1]), integer)])
            return context.get_dummy_value()

        return types.void(types.int64, value), lower

    return store


@intrinsic
def load_word(typing, address):
    """The int64 at an address that no kernel writes to."""

    def lower(context, builder, sig, args):
        return builder.load(_pointer(builder, args[0], I64))

    return types.int64(types.int64), lower


@intrinsic
def store_word(typing, address, value):
    """Write an int64."""

    def lower(context, builder, sig, args):
        builder.store(args[1], _pointer(builder, args[0], I64))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), lower


@cache
def zero(dtype: str):
    """zero(): the number 0."""

    @intrinsic
    def number(typing):
        kind = real(dtype)
        return kind(), lambda context, builder, sig, args: ir.Constant(kind.llvm, 0.0)

    return number


@cache
def from_plain(dtype: str):
    """A plain float of shared memory as a Real."""

    @intrinsic
    def convert(typing, value):
        kind = real(dtype)
        return kind(kind.numba), lambda context, builder, sig, args: args[0]

    return convert


@intrinsic
def to_plain(typing, value):
    """A Real as a plain float for shared memory."""
    return value.numba(value), lambda context, builder, sig, args: args[0]
