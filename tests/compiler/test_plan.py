"""Plans of small models: what they hold, and that they are the same in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

from minitx.compiler.plan import Buffer, Call, allocate, plan, stages
from minitx.compiler.targets import c
from minitx.config import preset

CONFIGS = {"attention": preset("tiny"), "ssru": preset("tiny", mixer="ssru", placement="pre", final_norm=True)}
QUANTIZATIONS = ("none", "int8")


def stored(name, quantization):
    return dataclasses.replace(CONFIGS[name], quantization=quantization)


def kernels(function):
    return [call.kernel for call in function.calls]


def test_the_golden_plan_of_a_decoder_step():
    """Two layers of self-attention, encoder-decoder attention and feed-forward network, post-norm, in float32."""
    _, step = plan(stored("attention", "none")).functions
    layer = ["linear_f32"] * 3 + ["attend_step", "linear_f32", "layernorm"]
    layer += ["linear_f32", "attend_cross", "linear_f32", "layernorm", "linear_f32", "linear_f32", "layernorm"]
    assert kernels(step) == ["embed_f32", *layer, *layer, "top_f32", "top_merge"]
    # query, key and value run beside each other
    assert [call.stage for call in step.calls][:7] == [0, 1, 1, 1, 2, 3, 4]
    assert [b.name for b in step.buffers if b.role == "state"] == [
        *(f"{i}.{part}" for i in (0, 1) for part in ("self.k", "self.v", "cross.k", "cross.v")),
        *("chosen.weight", "chosen.bias"),
    ]
    given = {"tokens", "slots", "sources", "starts", "candidates", "allowed"}
    assert {b.name for b in step.buffers if b.role == "input"} == given
    assert [b.name for b in step.buffers if b.role == "output"] == ["ids", "scores"]


def test_the_golden_plan_of_an_encoder_in_int8():
    """Activations are quantized once for all that read them, and in the norm where there is one before."""
    encode, _ = plan(stored("attention", "int8")).functions
    layer = ["linear_int8"] * 3 + ["attend_encoder", "quantize", "linear_int8", "layernorm"]
    layer += ["linear_int8", "quantize", "linear_int8", "layernorm"]
    assert kernels(encode) == ["embed_int8", "choose_int8", "quantize", *layer, *layer, *["linear_int8"] * 4]
    assert [b.name for b in encode.buffers if b.role == "output"] == [
        "chosen.weight",
        "chosen.bias",
        "0.cross.k",
        "0.cross.v",
        "1.cross.k",
        "1.cross.v",
    ]


def test_tensor_code_without_a_native_form_is_fused_by_tinygrad():
    planned = plan(stored("ssru", "none"))
    assert planned.sources and all("KERNEL" in source for source in planned.sources.values())
    fused = [k for k in kernels(planned.functions[1]) if k in planned.sources]
    assert len(fused) <= 2 * 5  # the recurrence and four sums of residual connections, in each of two layers
    # flat loops over all elements, which the C compiler makes vectors of: there is nothing to tune
    assert all(source.count("for (") == 1 for source in planned.sources.values())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("scheme", QUANTIZATIONS)
def test_memory_that_is_in_use_at_the_same_time_does_not_overlap(name, scheme):
    for function in plan(stored(name, scheme)).functions:
        life = {}
        for call in function.calls:
            for kind, i in call.arguments:
                if kind == "buffer" and function.buffers[i].role == "arena":
                    first, _ = life.get(i, (call.stage, 0))
                    life[i] = first, call.stage
        for i, (first, last) in life.items():
            a = function.buffers[i]
            assert a.offset % 64 == a.bytes % 64 == 0 and a.offset + a.bytes <= function.arena
            for j, (begin, end) in life.items():
                b = function.buffers[j]
                apart = a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset
                assert i == j or apart or last < begin or end < first, (a, b)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_of_one_stage_reads_what_another_call_of_it_writes(name):
    for function in plan(stored(name, "int8")).functions:
        for a in function.calls:
            for b in function.calls:
                if a is not b and a.stage == b.stage:
                    assert not set(a.writes) & {i for kind, i in b.arguments if kind == "buffer"}


def test_weights_are_aligned_and_apart():
    planned = plan(stored("attention", "int8"))
    end = 0
    for weight, offset in sorted(planned.weights, key=lambda item: item[1]):
        assert offset >= end and offset % 64 == 0
        end = offset + weight.bytes
    assert end <= planned.weight_bytes


def test_a_stage_ends_where_a_call_needs_what_came_before():
    calls = [Call("k", tuple(("buffer", i) for i in used), 0, (used[0],)) for used in ([0, 1], [2, 1], [3, 0], [1, 3])]
    assert [call.stage for call in stages(calls)] == [0, 0, 1, 2]


def test_memory_is_used_again():
    buffers = [Buffer(str(i), "arena", 64) for i in range(4)]
    calls = [Call("k", (("buffer", i), ("buffer", i - 1)), i, (i,)) for i in range(1, 4)]
    size, offsets = allocate(buffers, calls)
    assert size == 128 and len(set(offsets.values())) == 2


@pytest.mark.slow
def test_a_plan_is_the_same_in_every_process():
    code = (
        "import hashlib; from minitx.config import preset; from minitx.compiler.plan import plan\n"
        "from minitx.compiler.targets import c\n"
        "p = plan(preset('tiny', mixer='ssru', quantization='int8'))\n"
        "print(hashlib.sha256((p.to_json() + c.functions(p)).encode()).hexdigest())"
    )
    here = plan(preset("tiny", mixer="ssru", quantization="int8"))
    expected = hashlib.sha256((here.to_json() + c.functions(here)).encode()).hexdigest()
    for seed in ("1", "2"):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(seed))
        assert run.stdout.strip() == expected, run.stderr


def _environment(seed):
    import os

    return {**os.environ, "PYTHONHASHSEED": seed}


def test_a_plan_is_json():
    planned = plan(stored("attention", "none"))
    data = json.loads(planned.to_json())
    assert [f["name"] for f in data["functions"]] == ["encode", "step"]
