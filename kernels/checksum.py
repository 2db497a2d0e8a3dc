"""Noticing that weights have changed: 64 bits of the contents of each of some pieces of memory.

Each of 64 lanes runs s = rotate((s ⊕ w) · odd) (mod 2⁶⁴). This is one-to-one in s for a given w and in w for a given
s, and the lanes are joined in the same way: if a single w changes, it always shows, and if several do, they cancel,
unless they are made for it, with a chance of about 2⁻⁶⁴. Without the rotation the highest bit would reach no other, and
two changes of sign would cancel.

The multiplication costs more than all the rest, so w = a ⊕ rotate(b, 17) takes two words of memory, 64 bytes apart. A
change of one of them always shows. Changes Δa and Δb of both cancel just if Δa = rotate(Δb, 17). Where both words
change alike, as when signs are turned, places swapped, or one number put in place of another, Δa = Δb; and because 17
is odd, that is its own rotation only if no bit changes, or all 64. And 17 is about half a float32: for a change of
sign, exponent and leading bits in one word, only one of last bits in the other would do.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import I32, I64, declare, pointer
from .words import load_word, store_word
from .workers import share

_ODD = 0x9E3779B97F4A7C15
_ROTATION, _TURN = 29, 17
# a lane waits for its multiplication: so many vectors keep the multiplier busy
_VECTORS, _LANES = 8, 8
_VECTOR_BYTES = _LANES * 8

# of a piece of memory, in words: its address, bytes (a multiple of 4), and its checksum
PIECE_WORDS = 3
ADDRESS, BYTES, CHECKSUM = 0, 1, 2

# of the argument block of a checksum call
CHANGED = 8  # NOT_KNOWN: the table's checksums are made; 0: they are compared, and 1 is written if any differs
NOT_KNOWN = -1
PIECES = 9  # how many
PIECE_TABLE = 10  # address of (PIECES, PIECE_WORDS)
BLOCK_WORDS = 3  # of these


def _rotate(builder, value, bits):
    """Of integers or vectors of them. Of two shifts, LLVM would make one a second multiplication."""
    kind = value.type
    name = f"v{kind.count}i64" if isinstance(kind, ir.VectorType) else "i64"
    rotate = declare(builder, f"llvm.fshl.{name}", kind, [kind] * 3)
    return builder.call(rotate, [value, value, _constant(kind, bits)])


def _constant(kind, value):
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _mix(builder, state, word):
    """One round."""
    product = builder.mul(builder.xor(state, word), _constant(state.type, _ODD))
    return _rotate(builder, product, _ROTATION)


@intrinsic
def _fold(typing, address, vectors):
    """The checksum of so many vectors of 64 bytes."""

    def lower(context, builder, sig, args):
        address, vectors = args
        vector = ir.VectorType(I64, _LANES)
        starts = [ir.Constant(vector, [_VECTORS * lane + i + 1 for lane in range(_LANES)]) for i in range(_VECTORS)]
        states = [cgutils.alloca_once_value(builder, start) for start in starts]
        block_bytes = ir.Constant(I64, 2 * _VECTORS * _VECTOR_BYTES)
        size = builder.mul(vectors, ir.Constant(I64, _VECTOR_BYTES))
        blocks = builder.sdiv(size, block_bytes)
        rest = builder.srem(size, block_bytes)
        end = builder.add(address, builder.sub(size, rest))
        # what is left is followed by zeros to the length of a block, elsewhere
        last = cgutils.alloca_once(builder, ir.ArrayType(vector, 2 * _VECTORS))
        cgutils.memset(builder, last, block_bytes, 0)
        cgutils.raw_memcpy(builder, last, pointer(builder, end, vector), rest, 1)
        last = builder.ptrtoint(last, I64)
        any_left = builder.zext(builder.icmp_signed("!=", rest, ir.Constant(I64, 0)), I64)
        with cgutils.for_range(builder, builder.add(blocks, any_left)) as loop:
            whole = builder.add(address, builder.mul(loop.index, block_bytes))
            block = builder.select(builder.icmp_signed("<", loop.index, blocks), whole, last)
            words = []
            for n in range(2 * _VECTORS):
                place = builder.add(block, ir.Constant(I64, n * _VECTOR_BYTES))
                words.append(builder.load(pointer(builder, place, vector), typ=vector))
                words[-1].align = 4
            for state, first, second in zip(states, words[::2], words[1::2], strict=True):
                turned = _rotate(builder, second, _TURN)
                builder.store(_mix(builder, builder.load(state), builder.xor(first, turned)), state)
        ends = [builder.load(state) for state in states]
        while len(ends) > 1:
            ends = [_mix(builder, *pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
        result = ir.Constant(I64, 0)
        for lane in range(_LANES):
            result = _mix(builder, result, builder.extract_element(ends[0], ir.Constant(I32, lane)))
        return result

    return types.int64(types.int64, types.int64), lower


@intrinsic
def _fold_last(typing, state, address):
    """One more 32-bit word."""

    def lower(context, builder, sig, args):
        narrow = builder.load(pointer(builder, args[1], I32), typ=I32)
        return _mix(builder, args[0], builder.zext(narrow, I64))

    return types.int64(types.int64, types.int64), lower


def make_checksum():
    """checksum(thread, threads, block): the threads share the pieces."""

    def checksum(thread, threads, block):
        makes = load_word(block, CHANGED) == NOT_KNOWN
        first, last = share(load_word(block, PIECES), thread, threads)
        for number in range(first, last):
            piece = load_word(block, PIECE_TABLE) + 8 * PIECE_WORDS * number
            address, size = load_word(piece, ADDRESS), load_word(piece, BYTES)
            vectors = size // _VECTOR_BYTES
            state = _fold(address, vectors)
            for place in range(address + vectors * _VECTOR_BYTES, address + size, 4):
                state = _fold_last(state, place)
            if makes:
                store_word(piece, CHECKSUM, state)
            elif state != load_word(piece, CHECKSUM):
                store_word(block, CHANGED, 1)

    return checksum
