"""Noticing that weights have changed: checksums of the contents of some pieces of memory.

Several states run s = mix(s, w) over the words w of a piece, and are joined in the same way. Mixing is one-to-one in s
for a given w and in w for a given s: if a single w changes, it always shows, and if several do, they cancel, unless
they are made for it, with a chance of about 2⁻⁶⁴.

`_Rounds`, where the processor has instructions for vectors of them: words of 128 bits, and mix(s, w) = R(R(s) ⊕ w) with
the round R of AES (FIPS 197: SubBytes, ShiftRows and MixColumns) without a key. In two rounds a change of a single bit
reaches all bytes: to cancel it, the next word would have to change in all its numbers, by amounts that depend on s.

`_Products`, everywhere else and half as fast: words of 64 bits, and mix(s, w) = rotate((s ⊕ w) · odd) (mod 2⁶⁴).
Without the rotation the highest bit would reach no other, and two changes of sign would cancel. The multiplication
costs more than all the rest, so w = a ⊕ rotate(b, 17) takes two words of memory, 64 bytes apart. A change of one of
them always shows. Changes Δa and Δb of both cancel just if Δa = rotate(Δb, 17). Where both words change alike, as when
signs are turned, places swapped, or one number put in place of another, Δa = Δb; and because 17 is odd, that is its own
rotation only if no bit changes, or all 64. And 17 is about half a float32: for a change of sign, exponent and leading
bits in one word, only one of last bits in the other would do.
"""

from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import I32, I64, declare, pointer
from .target import offers
from .words import load_word, store_word
from .workers import share

# instructions take some cycles until their result is there: so many states keep their units busy
_STATES = 8
_SEED = 0x9E3779B97F4A7C15  # odd

# of a piece of memory, in words: its address, bytes (a multiple of 4), and the two words of its checksum
PIECE_WORDS = 4
ADDRESS, BYTES, CHECKSUM = 0, 1, 2

# of the argument block of a checksum call
CHANGED = 8  # NOT_KNOWN: the table's checksums are made; 0: they are compared, and 1 is written if any differs
NOT_KNOWN = -1
PIECES = 9  # how many
PIECE_TABLE = 10  # address of (PIECES, PIECE_WORDS)
BLOCK_WORDS = 3  # of these


@cache
def kernel_name() -> str:
    """Of the faster kernel that this processor can run."""
    return "checksum rounds" if offers("vaes") else "checksum products"


def _constant(kind, *values):
    """Of an integer type or a vector; one value is that of all lanes."""
    return ir.Constant(kind, values * (kind.count // len(values)) if isinstance(kind, ir.VectorType) else values[0])


class _Rounds:
    """Words of 128 bits, two of them at once."""

    vector = ir.VectorType(I64, 4)
    words = 1  # vectors of memory that a state takes at once

    def take(self, builder, state, words):
        return self.mix(builder, state, *words)

    def mix(self, builder, state, word):
        width = ".256" if state.type == self.vector else ""
        one_round = declare(builder, f"llvm.x86.aesni.aesenc{width}", state.type, [state.type] * 2)
        state = builder.call(one_round, [state, word])
        return builder.call(one_round, [state, _constant(state.type, 0)])

    def joined(self, builder, state):
        """The two words of all."""
        none = ir.Constant(state.type, ir.Undefined)
        halves = [[0, 1], [2, 3]]
        parts = [builder.shuffle_vector(state, none, ir.Constant(ir.VectorType(I32, 2), half)) for half in halves]
        result = self.mix(builder, *parts)
        return [builder.extract_element(result, ir.Constant(I32, lane)) for lane in range(2)]


class _Products:
    """Words of 64 bits, eight of them at once."""

    vector = ir.VectorType(I64, 8)
    words = 2

    def take(self, builder, state, words):
        first, second = words
        return self.mix(builder, state, builder.xor(first, self._rotated(builder, second, 17)))

    def mix(self, builder, state, word):
        product = builder.mul(builder.xor(state, word), _constant(state.type, _SEED))
        return self._rotated(builder, product, 29)

    def joined(self, builder, state):
        """All in one word, and no second one."""
        result = ir.Constant(I64, 0)
        for lane in range(state.type.count):
            result = self.mix(builder, result, builder.extract_element(state, ir.Constant(I32, lane)))
        return [result, ir.Constant(I64, 0)]

    def _rotated(self, builder, value, bits):
        """Of two shifts, LLVM would make one a second multiplication."""
        kind = value.type
        name = f"v{kind.count}i64" if isinstance(kind, ir.VectorType) else "i64"
        rotate = declare(builder, f"llvm.fshl.{name}", kind, [kind] * 3)
        return builder.call(rotate, [value, value, _constant(kind, bits)])


_WAYS = {"rounds": _Rounds, "products": _Products}


def _fold(way):
    """The checksum, two words, of so many bytes at an address."""
    mixing = _WAYS[way]()
    vector = mixing.vector
    vector_bytes = 8 * vector.count
    loads = _STATES * mixing.words

    @intrinsic
    def fold(typing, address, size):
        def lower(context, builder, sig, args):
            address, size = args
            states = []
            for state in range(_STATES):
                seeds = [_SEED * (state * vector.count + lane + 1) % 2**64 for lane in range(vector.count)]
                states.append(cgutils.alloca_once_value(builder, _constant(vector, *seeds)))
            block_bytes = ir.Constant(I64, loads * vector_bytes)
            blocks = builder.sdiv(size, block_bytes)
            rest = builder.srem(size, block_bytes)
            end = builder.add(address, builder.sub(size, rest))
            # what is left is followed by zeros to the length of a block, elsewhere
            last = cgutils.alloca_once(builder, ir.ArrayType(vector, loads))
            cgutils.memset(builder, last, block_bytes, 0)
            cgutils.raw_memcpy(builder, last, pointer(builder, end, vector), rest, 1)
            last = builder.ptrtoint(last, I64)
            any_left = builder.zext(builder.icmp_signed("!=", rest, ir.Constant(I64, 0)), I64)
            with cgutils.for_range(builder, builder.add(blocks, any_left)) as loop:
                whole = builder.add(address, builder.mul(loop.index, block_bytes))
                block = builder.select(builder.icmp_signed("<", loop.index, blocks), whole, last)
                words = []
                for n in range(loads):
                    place = builder.add(block, ir.Constant(I64, n * vector_bytes))
                    words.append(builder.load(pointer(builder, place, vector), typ=vector))
                    words[-1].align = 4
                for number, state in enumerate(states):
                    taken = words[number * mixing.words : (number + 1) * mixing.words]
                    builder.store(mixing.take(builder, builder.load(state), taken), state)
            ends = [builder.load(state) for state in states]
            while len(ends) > 1:
                ends = [mixing.mix(builder, *pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
            return context.make_tuple(builder, sig.return_type, mixing.joined(builder, ends[0]))

        return types.UniTuple(types.int64, 2)(types.int64, types.int64), lower

    return fold


def make_checksum(way: str):
    """checksum(thread, threads, block): the threads share the pieces."""
    fold = _fold(way)

    def checksum(thread, threads, block):
        makes = load_word(block, CHANGED) == NOT_KNOWN
        first, last = share(load_word(block, PIECES), thread, threads)
        for number in range(first, last):
            piece = load_word(block, PIECE_TABLE) + 8 * PIECE_WORDS * number
            found = fold(load_word(piece, ADDRESS), load_word(piece, BYTES))
            if makes:
                store_word(piece, CHECKSUM, found[0])
                store_word(piece, CHECKSUM + 1, found[1])
            elif found[0] != load_word(piece, CHECKSUM) or found[1] != load_word(piece, CHECKSUM + 1):
                store_word(block, CHANGED, 1)

    return checksum
