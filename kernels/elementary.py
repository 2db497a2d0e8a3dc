"""sigmoid and tanh on SIMD vectors.

Both rest on eʳ - 1 = r + r²·P(r) for |r| <= ln 2 / 2, after x = n·ln 2 + r. P is the Chebyshev fit on that
interval (degree 5 for float32, 9 for float64); its error is below 2⁻³⁰ and 2⁻⁵⁵ relative. Measured over all
2³² float32 inputs by `python -m bench.elementary`: at most 2 units in the last place, and NaN, ±inf and subnormal
results come out as they should. Every step is one IEEE operation, so the bits do not depend on the vector's width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba.extending import overload

from . import functions
from .simd import (
    Vector,
    absolute,
    copysign,
    fma,
    horner,
    power_of_two,
    select_greater,
    select_less,
    select_less_equal,
)

_OPTIONS = {"forceinline": True}


def _reduce(x):
    """(q, shifted) with eˣ = (1 + q)·2ⁿ, n in the low bits of `shifted`. Vectors only, in compiled code."""
    raise TypeError("_reduce is for SIMD vectors in compiled code")


@dataclass(frozen=True)
class Constants:
    """What they need in one dtype."""

    log2_e: float
    ln2_high: float
    ln2_low: float
    shifter: float  # added to a number, it leaves the nearest integer in the low mantissa bits
    polynomial: Callable  # P
    sigmoid_range: tuple[float, float]  # of x: below it σ(x) is 0, above it 1
    sigmoid_offset: int  # of the power of two that keeps everything in σ normal
    tanh_one: float  # tanh(this / 2) rounds to 1
    tanh_small: float | None  # below this tanh is x + x³·Q(x²)
    tanh_polynomial: Callable | None  # Q


def _numbers(dtype, *hexadecimal):
    return tuple(dtype(float.fromhex(h)) for h in hexadecimal)


_F32 = Constants(
    *_numbers(np.float32, "0x1.715476p+0", "0x1.62e43p-1", "-0x1.05c61p-29", "0x1.8p+23"),
    polynomial=horner(
        _numbers(
            np.float32, "0x1.a1256cp-13", "0x1.6d43bp-10", "0x1.1110ep-7", "0x1.5554e8p-5", "0x1.555556p-3", "0x1p-1"
        )
    ),
    sigmoid_range=(np.float32(-104.0), np.float32(25.0)),
    sigmoid_offset=32,
    tanh_one=np.float32(20.0),
    tanh_small=np.float32(0.55),
    tanh_polynomial=horner(
        _numbers(np.float32, "-0x1.acc5a4p-8", "0x1.5c886p-6", "-0x1.b99384p-5", "0x1.110fcp-3", "-0x1.555554p-2")
    ),
)
_F64 = Constants(
    *_numbers(np.float64, "0x1.71547652b82fep+0", "0x1.62e42fefa39efp-1", "0x1.abc9e3b39803fp-56", "0x1.8p+52"),
    polynomial=horner(
        _numbers(
            np.float64,
            "0x1.af390ba7e6f47p-26",
            "0x1.2891d4ffbb0f9p-22",
            "0x1.71de0d85293b8p-19",
            "0x1.a019b8ca26fcfp-16",
            "0x1.a01a01a7cebcdp-13",
            "0x1.6c16c1789d1d7p-10",
            "0x1.11111111109a6p-7",
            "0x1.5555555553d37p-5",
            "0x1.5555555555556p-3",
            "0x1.0000000000001p-1",
        )
    ),
    sigmoid_range=(np.float64(-746.0), np.float64(40.0)),
    sigmoid_offset=64,
    tanh_one=np.float64(40.0),
    tanh_small=None,
    tanh_polynomial=None,
)
_CONSTANTS = {"float32": _F32, "float64": _F64}


@overload(_reduce, jit_options=_OPTIONS)
def _reduce_vector(x):
    if not isinstance(x, Vector):
        return None
    constants = _CONSTANTS[x.element.name]
    log2_e, shifter = constants.log2_e, constants.shifter
    minus_ln2_high, minus_ln2_low = -constants.ln2_high, -constants.ln2_low
    polynomial = constants.polynomial

    def reduce(x):
        shifted = fma(x, log2_e, shifter)
        n = shifted - shifter
        r = fma(n, minus_ln2_low, fma(n, minus_ln2_high, x))
        return fma(r * r, polynomial(r), r), shifted

    return reduce


@overload(functions.sigmoid, jit_options=_OPTIONS)
def _sigmoid_vector(x):
    if not isinstance(x, Vector):
        return None
    constants = _CONSTANTS[x.element.name]
    low, high = constants.sigmoid_range
    offset = constants.sigmoid_offset
    one = 2.0**offset

    def implementation(x):
        # 2⁻ⁿ / (2⁻ⁿ + 1 + q), everything scaled up by a power of two: then only the quotient can be subnormal. The
        # larger of 2⁻ⁿ and 1 is added last: so the denominator is rounded where it matters least, and σ does not fall
        # from one n to the next.
        x = select_greater(x, high, high, x)
        x = select_less(x, low, low, x)
        q, shifted = _reduce(-x)
        scale = power_of_two(shifted, -1, offset)
        first = select_less(scale, one, scale, one)
        last = select_less(scale, one, one, scale)
        return scale / (fma(q, one, first) + last)

    return implementation


@overload(functions.tanh, jit_options=_OPTIONS)
def _tanh_vector(x):
    if not isinstance(x, Vector):
        return None
    constants = _CONSTANTS[x.element.name]
    high = constants.tanh_one

    if constants.tanh_small is None:

        def implementation(x):
            # |tanh x| = -m / (2 + m), m = e^(-2|x|) - 1 = (1 + q)·2ⁿ - 1
            y = absolute(x) * -2.0
            q, shifted = _reduce(select_less(y, -high, -high, y))
            scale = power_of_two(shifted, 1, 0)
            m = fma(scale, q, scale - 1.0)
            return copysign(-m / (2.0 + m), x)

        return implementation

    bound, odd = constants.tanh_small, constants.tanh_polynomial

    def implementation(x):
        # 1 - 2 / (e^(2|x|) + 1); where that cancels, x + x³·Q(x²)
        a = absolute(x)
        y = a * 2.0
        q, shifted = _reduce(select_greater(y, high, high, y))
        scale = power_of_two(shifted, 1, 0)
        large = 1.0 - 2.0 / (fma(scale, q, 1.0) + scale)
        square = a * a
        return copysign(select_less(a, bound, fma(a * square, odd(square), a), large), x)

    return implementation


@overload(functions.relu, jit_options=_OPTIONS)
def _relu_vector(x):
    return (lambda x: select_less_equal(x, 0.0, 0.0, x)) if isinstance(x, Vector) else None


@overload(functions.relu_gradient, jit_options=_OPTIONS)
def _relu_gradient_vector(h, dh):
    return (lambda h, dh: select_less_equal(h, 0.0, 0.0, dh)) if isinstance(h, Vector) else None
