"""How a kernel of tinygrad's is divided among the threads of a GPU, where its own choice is not the best."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from functools import lru_cache

from tinygrad import UOp, dtypes
from tinygrad.codegen import pm_flatten_range, pm_load_collapse, pm_mops, pm_simplify_ranges, pm_split_ranges, sym
from tinygrad.codegen.opt import KernelOptError, Opt, OptOps
from tinygrad.codegen.opt.postrange import Scheduler
from tinygrad.renderer import Renderer
from tinygrad.uop.ops import AxisType, Ops, graph_rewrite, resolve

from .packing import PANEL

WORD = 4  # columns of a matrix of int8 in a word, and of any matrix that are gone through at once
PANELS = 4  # that a thread has a row of: it reads what they are multiplied by once


def panel_rows(kernel: UOp, renderer: Renderer) -> UOp:
    """A product with a matrix in panels: 16 threads have a row of a panel each, so that they read words side by side.

    Other kernels are left as they are. (tinygrad would have 16 threads share one row, and add up what they find.)
    """
    scheduler = Scheduler(simplified(kernel), renderer)
    scheduler.convert_loop_to_global()
    rows, columns = scheduler.axes_of(AxisType.GLOBAL), scheduler.axes_of(AxisType.REDUCE)
    product = scheduler.reduceop is not None and scheduler.reduceop.src[0].op is Ops.MUL
    words = any(buffer.dtype == dtypes.uint32 for buffer in scheduler.bufs)
    if not product or not words or not rows or resolve(scheduler.full_shape[rows[-1]] != PANEL):
        return kernel
    wanted = [Opt(OptOps.LOCAL, rows[-1], PANEL), Opt(OptOps.UNROLL, len(columns) - 1, WORD)]
    wanted += [Opt(OptOps.UPCAST, rows[-2], PANELS)] if len(rows) > 1 else []
    for opt in wanted:
        with suppress(KernelOptError):  # that number does not divide this axis
            scheduler.apply_opt(opt)
    return kernel.replace(arg=dataclasses.replace(kernel.arg, opts_to_apply=tuple(scheduler.applied_opts)))


@lru_cache(256)  # layers share their kernels
def simplified(kernel: UOp) -> UOp:
    """The kernel with the axes that tinygrad's optimizer sees: the passes of `full_rewrite_to_sink` before it."""
    kernel = graph_rewrite(kernel, pm_mops, bottom_up=True)
    kernel = graph_rewrite(kernel, pm_load_collapse)
    kernel = graph_rewrite(kernel, pm_split_ranges + pm_flatten_range, ctx={})
    kernel = graph_rewrite(kernel, sym + pm_flatten_range)
    return graph_rewrite(kernel, pm_flatten_range + pm_simplify_ranges, ctx={})
