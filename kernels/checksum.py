"""Noticing that weights have changed: 64 bits of the contents of each of some buffers.

Each of 64 lanes runs s = rotate((s ⊕ word) · odd) (mod 2⁶⁴), which is one-to-one in s for a given word and in the word
for a given s: a change of a single word always shows, and several changes, unless they are made for it, cancel with a
chance of about 2⁻⁶⁴. Without the rotation the highest bit would reach no other, and two changes of sign would cancel.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .simd import I32, I64, declare, pointer
from .workers import load_word, share, store_word

_ODD = 0x9E3779B97F4A7C15
_ROTATION = 29
# a lane waits for its multiplication: so many vectors keep the multiplier busy
_VECTORS, _LANES = 8, 8
_BLOCK_BYTES = _VECTORS * _LANES * 8

# of the argument block of a checksum call
BUFFERS = 8  # how many
BUFFER_TABLE = 9  # address of (BUFFERS, 2): address, bytes (a multiple of 4)
RESULTS = 10  # address of (BUFFERS,)


def _mix(builder, state, word):
    """One round, on integers or vectors of them."""
    kind, name = state.type, "i64"
    odd, rotation = ir.Constant(I64, _ODD), ir.Constant(I64, _ROTATION)
    if isinstance(kind, ir.VectorType):
        name = f"v{kind.count}i64"
        odd, rotation = (ir.Constant(kind, [value.constant] * kind.count) for value in (odd, rotation))
    product = builder.mul(builder.xor(state, word), odd)
    # of two shifts, LLVM would make one a second multiplication
    rotate = declare(builder, f"llvm.fshl.{name}", kind, [kind] * 3)
    return builder.call(rotate, [product, product, rotation])


@intrinsic
def _fold(typing, address, blocks):
    """The checksum of so many whole blocks of 512 bytes."""

    def lower(context, builder, sig, args):
        vector = ir.VectorType(I64, _LANES)
        before = builder.block
        loop = builder.append_basic_block("blocks")
        done = builder.append_basic_block("folded")
        start = [ir.Constant(vector, [_VECTORS * lane + i + 1 for lane in range(_LANES)]) for i in range(_VECTORS)]
        address, blocks = args
        some = builder.icmp_signed(">", blocks, ir.Constant(I64, 0))
        builder.cbranch(some, loop, done)
        builder.position_at_end(loop)
        number = builder.phi(I64)
        number.add_incoming(ir.Constant(I64, 0), before)
        states = [builder.phi(vector) for _ in range(_VECTORS)]
        place = builder.add(address, builder.mul(number, ir.Constant(I64, _BLOCK_BYTES)))
        after = []
        for i, state in enumerate(states):
            word = builder.load(pointer(builder, builder.add(place, ir.Constant(I64, 64 * i)), vector), typ=vector)
            word.align = 4
            after.append(_mix(builder, state, word))
            state.add_incoming(start[i], before)
            state.add_incoming(after[i], loop)
        next_number = builder.add(number, ir.Constant(I64, 1))
        number.add_incoming(next_number, loop)
        builder.cbranch(builder.icmp_signed("<", next_number, blocks), loop, done)
        builder.position_at_end(done)
        result = ir.Constant(I64, 0)
        for i in range(_VECTORS):
            state = builder.phi(vector)
            state.add_incoming(start[i], before)
            state.add_incoming(after[i], loop)
            states[i] = state
        for state in states:
            for lane in range(_LANES):
                element = builder.extract_element(state, ir.Constant(I32, lane))
                result = _mix(builder, result, element)
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
    """checksum(thread, threads, block): the threads share the buffers."""

    def checksum(key, arguments):
        thread, threads, block = arguments
        first, last = share(load_word(block + 8 * BUFFERS), thread, threads)
        for number in range(first, last):
            entry = load_word(block + 8 * BUFFER_TABLE) + 16 * number
            address = load_word(entry)
            size = load_word(entry + 8)
            blocks = size // _BLOCK_BYTES
            state = _fold(address, blocks)
            for place in range(address + blocks * _BLOCK_BYTES, address + size, 4):
                state = _fold_last(state, place)
            store_word(load_word(block + 8 * RESULTS) + 8 * number, state)

    return checksum
