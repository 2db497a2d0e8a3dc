"""A Numba type for one SIMD vector, so that formulas written in plain Python run many numbers at a time.

`vectors(dtype, lanes)` gives the operations on vectors of that shape; `+ - * /` and negation work on the values
themselves, also with a Python constant on one side. Nothing here has fast-math flags: each lane does what IEEE 754
says for the same scalar program, so results do not depend on the number of lanes.

Memory is addressed by plain byte addresses (int64). `count` is how many numbers from the start of the vector are
really there; what lies beyond is neither read nor written, and reads as zero.
"""

import hashlib
import operator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

from .target import vector_unit

I8 = ir.IntType(8)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
CACHE_LINE = 64  # bytes that a prefetch brings


@dataclass(frozen=True)
class Element:
    """A floating-point element type: its Numba and LLVM types, and the layout of its bits."""

    name: str
    numba: types.Type
    llvm: ir.Type
    integer: ir.IntType
    intrinsic: str
    itemsize: int
    mantissa_bits: int
    exponent_bias: int


ELEMENTS = {
    "float32": Element("float32", types.float32, ir.FloatType(), I32, "f32", 4, 23, 127),
    "float64": Element("float64", types.float64, ir.DoubleType(), I64, "f64", 8, 52, 1023),
}


def lanes_of(dtype: str) -> int:
    """How many numbers of that type fill a vector register."""
    return vector_unit().lanes(ELEMENTS[dtype].itemsize)


class Vector(types.Type):
    """`lanes` numbers of one floating-point type in a vector register."""

    def __init__(self, dtype: str, lanes: int):
        self.element = ELEMENTS[dtype]
        self.lanes = lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")

    @property
    def llvm(self):
        return ir.VectorType(self.element.llvm, self.lanes)

    @property
    def llvm_integer(self):
        return ir.VectorType(self.element.integer, self.lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, numba_type.llvm)


def splat(builder, value, lanes):
    """A vector with `value` in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def declare(builder, name, result, arguments):
    """The LLVM function of that name, declared in the builder's module."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def call_fma(builder, a, b, c):
    """a·b + c rounded once. llvmlite's own `fma` refuses vectors."""
    lanes, scalar = a.type.count, a.type.element
    name = f"llvm.fma.v{lanes}f{32 if isinstance(scalar, ir.FloatType) else 64}"
    return builder.call(declare(builder, name, a.type, [a.type] * 3), [a, b, c])


# --- operators ---------------------------------------------------------------------------------------------------


def _vector_among(args):
    return next((a for a in args if isinstance(a, Vector)), None)


def _register_operator(python_operator, llvm_name):
    @infer_global(python_operator)
    class VectorOperator(AbstractTemplate):
        def generic(self, args, kws):
            vector = _vector_among(args)
            if vector is None or len(args) != 2:
                return None
            if all(isinstance(a, Vector | types.Number) and (not isinstance(a, Vector) or a == vector) for a in args):
                return signature(vector, *[a if isinstance(a, Vector) else vector.element.numba for a in args])
            return None

    def lower(context, builder, sig, args):
        vector = sig.return_type
        a, b = (
            value if isinstance(kind, Vector) else splat(builder, value, vector.lanes)
            for value, kind in zip(args, sig.args, strict=True)
        )
        return getattr(builder, llvm_name)(a, b)

    lower_builtin(python_operator, Vector, Vector)(lower)
    for number in (types.Float, types.Integer):
        lower_builtin(python_operator, Vector, number)(lower)
        lower_builtin(python_operator, number, Vector)(lower)


for _python_operator, _llvm_name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_operator(_python_operator, _llvm_name)


@infer_global(operator.neg)
class VectorNegation(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _lower_negation(context, builder, sig, args):
    return builder.fneg(args[0])


# --- memory ------------------------------------------------------------------------------------------------------


def pointer(builder, address, pointee):
    """The byte address as an LLVM pointer."""
    return builder.inttoptr(address, pointee.as_pointer())


def prefetch(builder, address, level=2):
    """Ask for the cache line at an address to be brought into the cache of that level, 1 or 2."""
    place = pointer(builder, address, I8)
    function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [place.type, I32, I32, I32])
    read, locality, data = ir.Constant(I32, 0), ir.Constant(I32, 4 - level), ir.Constant(I32, 1)
    builder.call(function, [place, read, locality, data])


def _mask(builder, count, lanes):
    """Lanes 0 .. count-1 set."""
    narrow = builder.trunc(count, I32)
    index = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", index, splat(builder, narrow, lanes))


def load_counted(builder, vector, address, count):
    """The first `count` numbers at `address`, zeros behind them."""
    source = pointer(builder, address, vector.llvm)
    whole = builder.icmp_signed(">=", count, ir.Constant(I64, vector.lanes))
    result = cgutils.alloca_once(builder, vector.llvm)
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            value = builder.load(source)
            value.align = vector.element.itemsize
            builder.store(value, result)
        with otherwise:
            suffix = f"v{vector.lanes}{vector.element.intrinsic}"
            mask = _mask(builder, count, vector.lanes)
            masked = declare(
                builder,
                f"llvm.masked.load.{suffix}.p0",
                vector.llvm,
                [source.type, I32, mask.type, vector.llvm],
            )
            zeros = ir.Constant(vector.llvm, [0.0] * vector.lanes)
            alignment = ir.Constant(I32, vector.element.itemsize)
            builder.store(builder.call(masked, [source, alignment, mask, zeros]), result)
    return builder.load(result)


def store_counted(builder, vector, address, count, value):
    """Write the first `count` numbers of `value` at `address`."""
    target = pointer(builder, address, vector.llvm)
    whole = builder.icmp_signed(">=", count, ir.Constant(I64, vector.lanes))
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            builder.store(value, target).align = vector.element.itemsize
        with otherwise:
            suffix = f"v{vector.lanes}{vector.element.intrinsic}"
            mask = _mask(builder, count, vector.lanes)
            masked = declare(
                builder,
                f"llvm.masked.store.{suffix}.p0",
                ir.VoidType(),
                [vector.llvm, target.type, I32, mask.type],
            )
            alignment = ir.Constant(I32, vector.element.itemsize)
            builder.call(masked, [value, target, alignment, mask])


@cache
def vectors(dtype: str, lanes: int) -> SimpleNamespace:
    """The operations on vectors of `lanes` numbers of `dtype`, to be called from compiled code."""
    vector = Vector(dtype, lanes)
    element = vector.element

    @intrinsic
    def load(typing, address, count):
        def lower(context, builder, sig, args):
            return load_counted(builder, vector, *args)

        return vector(types.int64, types.int64), lower

    @intrinsic
    def store(typing, address, count, value):
        def lower(context, builder, sig, args):
            store_counted(builder, vector, *args)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, vector), lower

    @intrinsic
    def broadcast(typing, number):
        def lower(context, builder, sig, args):
            return splat(builder, args[0], lanes)

        return vector(element.numba), lower

    @intrinsic
    def spread(typing, address):
        """The number at an address, in all lanes."""

        def lower(context, builder, sig, args):
            return splat(builder, builder.load(pointer(builder, args[0], element.llvm)), lanes)

        return vector(types.int64), lower

    @intrinsic
    def fetch(typing, address):
        def lower(context, builder, sig, args):
            prefetch(builder, args[0])
            return context.get_dummy_value()

        return types.void(types.int64), lower

    return SimpleNamespace(
        itemsize=element.itemsize, load=load, spread=spread, store=store, broadcast=broadcast, fetch=fetch
    )


# --- functions of vectors ----------------------------------------------------------------------------------------


@intrinsic
def fma(typing, a, b, c):
    """a·b + c rounded once; b and c may be numbers."""
    if not isinstance(a, Vector):
        return None
    kinds = [k if isinstance(k, Vector) else a.element.numba for k in (b, c)]

    def lower(context, builder, sig, args):
        return call_fma(
            builder,
            *[
                value if isinstance(kind, Vector) else splat(builder, value, a.lanes)
                for value, kind in zip(args, sig.args, strict=True)
            ],
        )

    return a(a, *kinds), lower


def horner(coefficients):
    """An intrinsic for the polynomial with these coefficients, highest power first, by fused multiply-adds."""

    @intrinsic
    def polynomial(typing, x):
        if not isinstance(x, Vector):
            return None

        def lower(context, builder, sig, args):
            vectors = [ir.Constant(x.llvm, [float(c)] * x.lanes) for c in coefficients]
            result, *rest = _in_memory(builder, x, vectors) if vector_unit().registers < 32 else vectors
            for coefficient in rest:
                result = call_fma(builder, result, args[0], coefficient)
            return result

        return x(x), lower

    return polynomial


def _in_memory(builder, vector, constants):
    """The constants as operands in memory, which take no register.

    LLVM would broadcast each from a single number into a register, and where several polynomials are near each other
    keep them there, so that the formulas' own values have to be moved to the stack and back. So they are whole vectors,
    in memory that might change for all that it is told: it is no constant, and whatever was read before is forgotten.
    With 16 registers an LSTM's formula takes 10 % less time (Zen 3).
    """
    numbers = "_".join(str(c.constant[0]) for c in constants)
    name = f"constants_{hashlib.sha256(numbers.encode()).hexdigest()[:16]}_{vector.element.name}_{vector.lanes}"
    kind = ir.ArrayType(vector.llvm, len(constants))
    table = builder.module.globals.get(name)
    if table is None:
        table = ir.GlobalVariable(builder.module, kind, name)
        table.linkage = "linkonce_odr"
        table.initializer = ir.Constant(kind, constants)
        table.align = vector.lanes * vector.element.itemsize
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
    values = []
    for place in range(len(constants)):
        values.append(builder.load(builder.gep(table, [ir.Constant(I32, 0), ir.Constant(I32, place)])))
        values[-1].align = table.align
    return values


def _unary(llvm_name):
    @intrinsic
    def function(typing, x):
        if not isinstance(x, Vector):
            return None

        def lower(context, builder, sig, args):
            name = f"llvm.{llvm_name}.v{x.lanes}{x.element.intrinsic}"
            return builder.call(declare(builder, name, x.llvm, [x.llvm]), args)

        return x(x), lower

    return function


absolute = _unary("fabs")


@intrinsic
def copysign(typing, magnitude, sign):
    """`magnitude` with the sign of `sign`, lane by lane."""
    if not isinstance(magnitude, Vector):
        return None

    def lower(context, builder, sig, args):
        name = f"llvm.copysign.v{magnitude.lanes}{magnitude.element.intrinsic}"
        return builder.call(declare(builder, name, magnitude.llvm, [magnitude.llvm] * 2), args)

    return magnitude(magnitude, magnitude), lower


def _select(llvm_comparison):
    @intrinsic
    def select(typing, x, bound, then, otherwise):
        if not isinstance(x, Vector):
            return None
        kinds = [k if isinstance(k, Vector) else x.element.numba for k in (bound, then, otherwise)]

        def lower(context, builder, sig, args):
            value, limit, yes, no = (
                a if isinstance(kind, Vector) else splat(builder, a, x.lanes)
                for a, kind in zip(args, sig.args, strict=True)
            )
            return builder.select(builder.fcmp_ordered(llvm_comparison, value, limit), yes, no)

        return x(x, *kinds), lower

    return select


select_less = _select("<")  # (x, bound, then, otherwise): `then` where x < bound; NaN compares false
select_less_equal = _select("<=")
select_greater = _select(">")


@intrinsic(prefer_literal=True)
def power_of_two(typing, shifted, sign, offset):
    """2^(sign·n + offset) for the integers n that `elementary` has pushed into the low mantissa bits of `shifted`; sign
    is 1 or -1. Must be a normal number.
    """
    literals = (sign, offset)
    if not isinstance(shifted, Vector) or not all(isinstance(each, types.IntegerLiteral) for each in literals):
        return None
    factor, power = (each.literal_value for each in literals)
    element = shifted.element
    # of the number that pushes them there, 1.5 times the power of two whose last place is 1
    bits_pushing = ((element.exponent_bias + element.mantissa_bits) << element.mantissa_bits) + (
        1 << (element.mantissa_bits - 1)
    )
    bits_of_result = element.exponent_bias + power  # for n = 0, in the exponent's place

    def integers(value):
        return ir.Constant(shifted.llvm_integer, [value] * shifted.lanes)

    def lower(context, builder, sig, args):
        n = builder.sub(builder.bitcast(args[0], shifted.llvm_integer), integers(bits_pushing))
        combine = builder.add if factor > 0 else builder.sub
        exponent = combine(integers(bits_of_result), n)
        return builder.bitcast(builder.shl(exponent, integers(element.mantissa_bits)), shifted.llvm)

    return shifted(shifted, sign, offset), lower
