"""The kernels of a pure function of tensors, and their source for any target: nothing is run, no device is needed.

The tensors are best made on tinygrad's device NULL, which holds no data and needs no compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinygrad import Tensor
from tinygrad.codegen import to_program
from tinygrad.codegen.opt import tc
from tinygrad.device import Compiler
from tinygrad.helpers import Context, Target
from tinygrad.renderer import Renderer, cstyle, llvmir, ptx, wgsl
from tinygrad.uop.ops import Ops, UOp

from ..config import pick


class _NoCompiler(Compiler):  # type: ignore[misc]
    """Stands where a renderer has its compiler, so that the source is the last thing made."""

    def compile_cached(self, src: str) -> bytes:
        return b""


@dataclass(frozen=True)
class Row:
    """A row of `TARGETS`: the renderer, what it renders for, and how many buffers a kernel may have (0: no limit)."""

    renderer: type[Renderer]
    target: Target
    buffers: int = 0
    tensor_cores: Callable[[str], list[Any]] = lambda arch: []
    matcher: Any = None  # what the renderer's own __init__ adds to its `extra_matcher`


TARGETS: dict[str, Row] = {
    "clang": Row(cstyle.ClangRenderer, Target("CPU", "CLANG", "x86_64,native"), 31),
    "llvm": Row(llvmir.CPULLVMRenderer, Target("CPU", "LLVM", "x86_64,native"), 31),
    "opencl": Row(cstyle.OpenCLRenderer, Target("CL", "OPENCL")),
    "qcom": Row(cstyle.QCOMCLRenderer, Target("QCOM", "QCOMCL")),
    "metal": Row(cstyle.MetalRenderer, Target("METAL", "METAL", "Apple7"), 31, lambda arch: list(tc.metal)),
    "cuda": Row(cstyle.CUDARenderer, Target("CUDA", "CUDA", "sm_80"), 0, tc.get_cuda),
    "nv": Row(cstyle.CUDARenderer, Target("NV", "CUDA", "sm_80"), 0, tc.get_cuda),
    "ptx": Row(ptx.PTXRenderer, Target("CUDA", "PTX", "sm_80"), 0, lambda arch: list(ptx.PTXRenderer.tc_sm80)),
    "hip": Row(cstyle.HIPRenderer, Target("AMD", "HIP", "gfx1100"), 0, tc.get_amd, cstyle.pm_manual_bf16_cast),
    "wgsl": Row(wgsl.WGSLRenderer, Target("WEBGPU", "WGSL"), 8),
}


def renderer(target: str) -> Renderer:
    """tinygrad's renderer for a target, without its compiler; raises `ConfigError` that lists the targets.

    It is a class of its own, so that tinygrad's cache of compiled programs never mixes these with real ones.
    """
    row = pick(TARGETS, target, "target")

    class SourceOnly(row.renderer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            Renderer.__init__(self, row.target)  # Metal's, CUDA's and HIP's own would load a native compiler
            self.compiler, self.tensor_cores = _NoCompiler(), row.tensor_cores(row.target.arch)
            if row.matcher is not None:
                self.extra_matcher = row.renderer.extra_matcher + row.matcher

    return SourceOnly()


def kernels(*outputs: Tensor, buffers: int = 0) -> list[UOp]:
    """The kernels that compute `outputs`, scheduled together, in the order in which they run.

    Each is a CALL: of a SINK (tinygrad's own kernels) or a PROGRAM (hand-written ones), with its buffers.
    `buffers` is the most that one kernel may have, a target's `Row.buffers`; 0 is no limit. Copies between devices
    are no kernels and are left out. The outputs are spent: tinygrad regards them as computed from now on.
    """
    # tinygrad's cache of schedules does not know the limit, and its arena would make one buffer of many
    with Context(MAX_KERNEL_BUFFERS=buffers, SCACHE=0, NO_MEMORY_PLANNER=1):
        linear, _ = Tensor.linear_with_vars(*outputs)
    return [call for call in linear.src if call.src[0].op in (Ops.SINK, Ops.PROGRAM)]


def render(calls: list[UOp], target: str) -> list[str]:
    """The source of each kernel for a row of `TARGETS`, in order; two that are the same have the same source.

    A hand-written kernel has one source already. Raises `ConfigError` for an unknown target.
    """
    to = renderer(target)
    programs = [to_program(call.src[0], to) if call.src[0].op is Ops.SINK else call.src[0] for call in calls]
    return [program.src[2].arg for program in programs]


# Of launch sizes, which are never below 0.
OPERATIONS = {
    **dict.fromkeys((Ops.CDIV, Ops.FLOORDIV), "/"),
    **dict.fromkeys((Ops.CMOD, Ops.FLOORMOD), "%"),
    Ops.ADD: "+",
    Ops.MUL: "*",
    Ops.SHL: "<<",
    Ops.SHR: ">>",
}


def launch_size(size: int | UOp) -> Any:
    """A launch size of a GPU's kernel as plain data: a number, a variable's name, or `[operation, a, b]` of such."""
    if isinstance(size, int):
        return size
    if size.op is Ops.CONST:
        return int(size.arg)
    if size.op in (Ops.CAST, Ops.BITCAST):
        return launch_size(size.src[0])
    if size.op in OPERATIONS:
        return [OPERATIONS[size.op], *map(launch_size, size.src)]
    return str(size.expr)  # a variable
