"""A Numba type for one number in a CUDA kernel, so that formulas written in plain Python keep its precision.

In plain Numba `1.0 - z` of a float32 z is computed in float64, which a GPU does at a fraction of the speed: a literal
is a float64 there. A `Real` takes the literal's value and keeps its own precision, as the SIMD vectors of the CPU
kernels do. No fast-math flags: each operation is the IEEE one, rounded to nearest.
"""

import operator

from llvmlite import ir
from numba.cuda import types
from numba.cuda.datamodel import models
from numba.cuda.extending import intrinsic, lower_builtin, overload, register_model
from numba.cuda.typing import signature
from numba.cuda.typing.templates import AbstractTemplate, infer_global

from .. import functions

I16 = ir.IntType(16)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
_LLVM = {32: ir.FloatType(), 64: ir.DoubleType()}
_LIBDEVICE = {  # CUDA's library of accurate functions, for 32 and 64 bits
    "exp": {32: "__nv_expf", 64: "__nv_exp"},
    "tanh": {32: "__nv_tanhf", 64: "__nv_tanh"},
    "absolute": {32: "__nv_fabsf", 64: "__nv_fabs"},
}


class Real(types.Type):
    """One floating-point number of 32 or 64 bits."""

    def __init__(self, bits: int):
        self.bits = bits
        self.llvm = _LLVM[bits]
        self.numba = {32: types.float32, 64: types.float64}[bits]
        super().__init__(name=f"Real({bits})")


@register_model(Real)
class RealModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, numba_type.llvm)


def _register_operator(python_operator, llvm_name):
    @infer_global(python_operator)
    class RealOperator(AbstractTemplate):
        def generic(self, args, kws):
            real = next((a for a in args if isinstance(a, Real)), None)
            if real is None or len(args) != 2:
                return None
            if all(a == real or isinstance(a, types.Float) for a in args):
                return signature(real, *[a if a == real else real.numba for a in args])
            return None

    def lower(context, builder, sig, args):
        return getattr(builder, llvm_name)(*args)

    for pair in ((Real, Real), (Real, types.Float), (types.Float, Real)):
        lower_builtin(python_operator, *pair)(lower)


for _operator, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_operator(_operator, _name)


def call_fma(builder, real, a, b, c):
    """a·b + c rounded once, as LLVM values."""
    name = f"llvm.fma.f{real.bits}"
    function = _declared(builder, name, ir.FunctionType(real.llvm, [real.llvm] * 3))
    return builder.call(function, [a, b, c])


def _declared(builder, name, kind):
    found = builder.module.globals.get(name)
    return ir.Function(builder.module, kind, name) if found is None else found


def _library_function(name):
    """An intrinsic that calls one of them."""

    @intrinsic
    def function(typing, x):
        def lower(context, builder, sig, args):
            kind = ir.FunctionType(x.llvm, [x.llvm])
            return builder.call(_declared(builder, _LIBDEVICE[name][x.bits], kind), args)

        return x(x), lower

    return function


_exp = _library_function("exp")
_tanh = _library_function("tanh")
_absolute = _library_function("absolute")


@intrinsic
def _if_positive(typing, x, yes, no):
    """`yes` where x > 0 or is NaN, else `no`."""

    def lower(context, builder, sig, args):
        positive = builder.fcmp_unordered(">", args[0], ir.Constant(x.llvm, 0.0))
        return builder.select(positive, args[1], args[2])

    return yes(x, yes, yes), lower


@intrinsic
def zero_like(typing, x):
    """0 in the precision of x."""
    return x(x), lambda context, builder, sig, args: ir.Constant(x.llvm, 0.0)


@overload(functions.sigmoid)
def _sigmoid(x):
    if isinstance(x, Real):

        def sigmoid(x):
            e = _exp(0.0 - _absolute(x))
            return _if_positive(x, 1.0 / (e + 1.0), e / (e + 1.0))

        return sigmoid


@overload(functions.tanh)
def _overload_tanh(x):
    if isinstance(x, Real):
        return lambda x: _tanh(x)


@overload(functions.relu)
def _relu(x):
    if isinstance(x, Real):
        return lambda x: _if_positive(x, x, zero_like(x))


@overload(functions.relu_gradient)
def _relu_gradient(h, dh):
    if isinstance(h, Real):
        return lambda h, dh: _if_positive(h, dh, zero_like(dh))
