"""Waiting for all blocks of a grid, once a step: a counter in the second-level cache that only grows.

A block's numbers for the others are stored before its threads meet (`bar.sync`), and one thread then adds 1 to the
counter with release semantics at the scope of the GPU, which covers what it has seen of its block's stores. It reads
the counter with acquire semantics until all have arrived; after the block's threads meet again they may load.
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from .real import I64

_VOID = ir.VoidType()


@intrinsic
def arrive(typing, counter):
    """Add 1 to the int64 at this address, release."""

    def lower(context, builder, sig, args):
        # all blocks must be on the device at once: Numba then launches cooperatively, or the launch fails
        context.active_code_library.use_cooperative = True
        assembly = ir.InlineAsm(
            ir.FunctionType(_VOID, [I64, I64]),
            "red.release.gpu.global.add.u64 [$0], $1;",
            "l,l,~{memory}",
            side_effect=True,
        )
        builder.call(assembly, [args[0], ir.Constant(I64, 1)])
        return context.get_dummy_value()

    return types.void(types.int64), lower


@intrinsic
def arrived(typing, counter):
    """The int64 at this address, acquire."""

    def lower(context, builder, sig, args):
        assembly = ir.InlineAsm(
            ir.FunctionType(I64, [I64]), "ld.acquire.gpu.global.u64 $0, [$1];", "=l,l,~{memory}", side_effect=True
        )
        return builder.call(assembly, args)

    return types.int64(types.int64), lower


@intrinsic
def prefetch(typing, address):
    """Ask for the number at this address in the second-level cache."""

    def lower(context, builder, sig, args):
        assembly = ir.InlineAsm(ir.FunctionType(_VOID, [I64]), "prefetch.global.L2 [$0];", "l", side_effect=True)
        builder.call(assembly, args)
        return context.get_dummy_value()

    return types.void(types.int64), lower
