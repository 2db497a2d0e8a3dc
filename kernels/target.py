"""What the machine's vector unit offers, asked of LLVM itself.

A CPU's name says little about what LLVM will do for it (some with 512-bit registers are tuned for 256). So a
512-bit addition is compiled for the target Numba compiles for, and the registers that appear in the assembly answer.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm
from numba.core.registry import cpu_target

_PROBE = """
define void @probe(ptr %p) {
  %v = load <16 x float>, ptr %p, align 4
  %s = fadd <16 x float> %v, %v
  store <16 x float> %s, ptr %p, align 4
  ret void
}
"""


@dataclass(frozen=True)
class VectorUnit:
    """Width of a vector register in bits, and how many of them there are."""

    bits: int
    registers: int

    def lanes(self, itemsize: int) -> int:
        """Numbers of `itemsize` bytes in one vector register."""
        return self.bits // (8 * itemsize)


@cache
def vector_unit() -> VectorUnit:
    """The vector unit of the CPU that Numba compiles for (the host, or NUMBA_CPU_NAME and NUMBA_CPU_FEATURES)."""
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=name, features=features, opt=2)
    assembly = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    if "zmm" in assembly:
        return VectorUnit(512, 32)
    if "ymm" in assembly:
        return VectorUnit(256, 16)
    # 128 bits everywhere else; SSE has 16 registers, NEON and the others 32
    return VectorUnit(128, 16 if "xmm" in assembly else 32)


def offers(feature: str) -> bool:
    """Whether that CPU has what LLVM calls `feature`, such as "vaes"."""
    *_, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{feature}" in features.split(",")


@cache
def target_hash() -> str:
    """Of what Numba compiles for: system, CPU and its features."""
    return hashlib.sha256(repr(cpu_target.target_context.codegen().magic_tuple()).encode()).hexdigest()[:8]
