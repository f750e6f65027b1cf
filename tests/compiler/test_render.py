"""Every target renders without its device, and the number of kernels is what it is meant to be."""

from __future__ import annotations

import pytest
from tinygrad import Tensor, UOp, dtypes
from tinygrad.device import Device
from tinygrad.helpers import Target
from tinygrad.renderer.cstyle import OpenCLRenderer

from minitx.compiler.render import TARGETS, kernels, render
from minitx.config import preset
from minitx.errors import ConfigError
from minitx.nn.transformer import Transformer

MARKS = {  # what a kernel of each target has in it
    "clang": "void ",
    "llvm": "define ",
    "opencl": "__kernel void",
    "qcom": "__kernel void",
    "metal": "kernel void",
    "cuda": "__global__",
    "nv": "__global__",
    "ptx": ".visible .entry",
    "hip": "__attribute__((global))",
    "wgsl": "@compute",
}


def empty(*shape, dtype=dtypes.float32):
    return Tensor.empty(*shape, dtype=dtype, device="NULL")


def small():
    """A matrix product, a softmax, an embedding look-up, and a step that writes at a position that is a variable."""
    x, weight, ids = empty(4, 32), empty(16, 32), empty(5, dtype=dtypes.int32)
    position = UOp.variable("position", 0, 63)
    kept, new = empty(1, 64, 16), empty(1, 1, 16)
    cache = Tensor(kept.uop.after(kept[:, position : position + 1].uop.store(new.uop)))
    return [(x @ weight.T).relu(), x.softmax(-1), weight[ids], cache, cache.sum(1)]


@pytest.mark.parametrize("target", TARGETS)
def test_a_small_graph_renders_for_every_target_without_its_device(target):
    calls = kernels(*small(), buffers=TARGETS[target].buffers)
    sources = render(calls, target)
    assert len(sources) == len(calls) and all(MARKS[target] in source for source in sources)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["tiny", "marian-tiny"])
def test_a_whole_model_renders_for_every_target_without_its_device(name, target):
    before = set(Device._opened_devices)
    calls = [call for part in whole_model(name, TARGETS[target].buffers) for call in part]
    sources = render(calls, target)
    assert all(MARKS[target] in source for source in sources)
    assert Device._opened_devices - before <= {"NULL", "NPY"}


def whole_model(name, buffers=0):
    """The kernels of an encoder and of one decode step, one of 8 and a source of 16."""
    config = preset(name, source_vocab=96, target_vocab=96, d_model=32, d_ff=64, encoder_layers=1, decoder_layers=1)
    model = Transformer(config, device="NULL", seed=None)
    tokens, mask = empty(1, 16, dtype=dtypes.int32), empty(1, 1, 1, 16)
    encode = kernels(model.encode(tokens, mask), buffers=buffers)
    cache = model.new_cache(1, 16, 8)
    logits, cache = model.decode_step(empty(1, dtype=dtypes.int32), cache, UOp.variable("position", 0, 7))
    return encode, kernels(logits, *cache.values(), buffers=buffers)


def test_kernels_are_fused_and_come_in_order():
    x, weight, bias = empty(4, 32), empty(16, 32), empty(16)
    assert len(kernels((x @ weight.T + bias).relu())) == 1
    assert len(kernels((x @ weight.T + bias).relu() @ weight)) == 2
    assert len(kernels(empty(4, 32).softmax(-1))) <= 3


def test_a_limit_on_buffers_splits_a_kernel():
    def added():
        return sum((empty(64) for _ in range(12)), start=empty(64))

    assert len(kernels(added())) == 1
    calls = kernels(added(), buffers=8)
    assert len(calls) > 1 and all(len(set(call.src[1:])) <= 8 for call in calls)


def test_the_source_is_what_tinygrads_own_renderer_gives():
    from tinygrad.codegen import to_program

    calls = kernels(*small())
    own = OpenCLRenderer(Target("CL", "OPENCL"))
    assert render(calls, "opencl") == [to_program(call.src[0], own).src[2].arg for call in calls]


def test_rendering_leaves_programs_for_a_real_device_alone():
    first, second = (Tensor([[1.0, 2.0], [3.0, 4.0]], device="CPU").realize() for _ in range(2))
    (source,) = render(kernels(first * 3 + 1), "clang")
    assert "3.0f" in source and (second * 3 + 1).tolist() == [[4.0, 7.0], [10.0, 13.0]]


def test_an_unknown_target_is_an_error_that_lists_them():
    with pytest.raises(ConfigError, match="target 'vulkan' is not known; choose one of: clang, llvm, opencl"):
        render([], "vulkan")
