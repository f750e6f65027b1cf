"""A plan for WebGPU is whole and reads what the native plan's weights hold; in a browser it gives what minitx gives."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import native_models
import numpy as np
import pytest
from browser import Server, browser
from test_export import small
from tinygrad import dtypes

from minitx.compiler import gpu, plan
from minitx.compiler.export import export
from minitx.compiler.forms import INTEGERS
from minitx.compiler.panels import FORMS, Panels
from minitx.compiler.targets import webgpu
from minitx.compiler.targets.package import Options
from minitx.compiler.weights import PACKERS
from minitx.config import Config
from minitx.generation.search import generate
from minitx.nn.ops import upload
from minitx.nn.quant import QUANTIZATIONS, Hints

SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
MODELS = [("post", "int8"), ("ssru", "int4")]
PLANNED = [("post", "int8"), ("ssru", "none")]
OPERATIONS = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "<<": lambda a, b: a << b,
    ">>": lambda a, b: a >> b,
}


@pytest.mark.parametrize("row", QUANTIZATIONS)
@pytest.mark.parametrize(("n", "k"), [(32, 64), (37, 96)])
def test_packed_matrices_are_what_was_packed(row: str, n: int, k: int) -> None:
    assert [*FORMS] == [*QUANTIZATIONS]
    random = np.random.default_rng(n)
    w, x = (random.normal(0, 0.5, size).astype(np.float32) for size in ((n, k), (3, k)))
    w[0, :2] = 3e-6, -1e-7  # below the least normal float16
    parts = QUANTIZATIONS[row].quantize(w, Hints())
    words = np.ascontiguousarray(PACKERS[row](*parts.values())).view(np.int32)
    stored = Panels(row, (n, k), upload(words, "CPU").bitcast(dtypes.uint32))
    expected = QUANTIZATIONS[row].dequantize(parts)
    index = np.array([0, n - 1, n // 2], np.int32)
    assert np.array_equal(stored.rows(upload(index, "CPU")).numpy(), expected[index])
    rounded = QUANTIZATIONS["int8"].dequantize(QUANTIZATIONS["int8"].quantize(x, Hints())) if row in INTEGERS else x
    product = stored.product(upload(x, "CPU")).numpy()
    assert np.allclose(product, rounded @ expected.T, atol=1e-4)


def shallow(name: str, quantization: str) -> Config:
    """A model of one layer, which is planned faster."""
    return dataclasses.replace(native_models.checkpoint(name, quantization).config, encoder_layers=1, decoder_layers=1)


@cache
def described(name: str, quantization: str) -> dict[str, Any]:
    config = shallow(name, quantization)
    native = plan.plan(config)
    return json.loads(json.dumps(webgpu.description(gpu.plan(config, native, 4), native, "tiny", 4)))


def value(size: Any, variables: dict[str, int]) -> int:
    if isinstance(size, list):
        return OPERATIONS[size[0]](*(value(part, variables) for part in size[1:]))
    return variables[size] if isinstance(size, str) else size


@pytest.mark.parametrize(("name", "quantization"), PLANNED)
def test_every_call_has_its_kernel_and_its_buffers(name: str, quantization: str) -> None:
    made, config = described(name, quantization), shallow(name, quantization)
    native = plan.plan(config)
    places = {w.name: (place, w.bytes) for w, place in native.weights}
    assert [f["name"] for f in made["functions"]] == ["encode", "step", "beams", "reorder"]
    assert {c["kernel"] for f in made["functions"] for c in f["calls"]} == {*made["sources"]}
    for f in made["functions"]:
        for buffer in f["buffers"]:
            if buffer["role"] == "weight":
                assert (buffer["offset"], buffer["bytes"]) == places[buffer["name"]]
            if buffer["role"] == "arena":
                assert buffer["offset"] % 256 == 0 and buffer["offset"] + buffer["bytes"] <= f["arena"]
        for call in f["calls"]:
            source, kinds = made["sources"][call["kernel"]], [kind for kind, _ in call["arguments"]]
            assert source.count("var<storage") == kinds.count("buffer") <= 8
            assert source.count("var<uniform") == kinds.count("name") + 1  # and infinity
            assert len({*map(int, re.findall(r"@binding\((\d+)\)", source))}) == len(kinds) + 1
            for variables in ({"source": 1, "position": 0}, {"source": config.max_length, "position": 63}):
                assert all(1 <= value(size, variables) <= 65535 for size in call["groups"])


@pytest.mark.parametrize(("name", "quantization"), PLANNED)
def test_no_call_is_given_memory_twice(name: str, quantization: str) -> None:
    """WebGPU refuses a call two of whose buffers overlap; what is read later must not be written over before."""
    for f in described(name, quantization)["functions"]:
        spans = [(b["offset"], b["offset"] + b["bytes"]) if b["role"] == "arena" else None for b in f["buffers"]]
        used = [[i for kind, i in call["arguments"] if kind == "buffer"] for call in f["calls"]]
        life = {i: [n for n, call in enumerate(used) if i in call] for i in range(len(spans))}
        arena = [i for i, span in enumerate(spans) if span]
        for n, i in enumerate(arena):
            for j in arena[:n]:
                apart = life[i][-1] < life[j][0] or life[j][-1] < life[i][0]
                assert apart or spans[i][1] <= spans[j][0] or spans[j][1] <= spans[i][0]
        assert all(len({*call}) == len(call) for call in used)


def test_the_plan_is_the_same_in_every_process() -> None:
    code = "import test_webgpu as t, json; print(json.dumps(t.described('post', 'int8')))"
    path = f"{Path(__file__).parent}:{Path(native_models.__file__).parent}:{Path(__file__).parents[2]}"
    hashes = {hashlib.sha256((json.dumps(described("post", "int8")) + "\n").encode()).hexdigest()}
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert hashlib.sha256(done.stdout).hexdigest() in hashes


TRANSLATE = """
const { load } = await import("./tiny.js");
const { sources, beams } = await (await fetch("sources.json")).json();
const found = [];
const model = await load({ backend: "webgpu" });
for (const beam of beams) {
  for (const ids of sources) found.push((await model.generate(ids, { beam })).ids);
}
const small = await load({ backend: "webgpu", limits: { source: 3, target: 4, beam: 1 } });
return { backend: small.backend, found, text: await model.translate("abc\\n\\ndef", { maxLength: 9 }) };
"""
# The device is lost while a sentence is translated, which is then begun anew; the next ones do without it.
LOST = """
let device;
const request = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (...given) { return (device = await request.apply(this, given)); };
const { load } = await import("./tiny.js");
const model = await load();
const before = model.backend;
const expected = await model.translate("the quick");
const pieces = [];
const text = await model.translate("the quick", { onPiece: (piece) => { pieces.push(piece); device.destroy(); } });
const whole = await (await load({ backend: "wasm" })).translate("the quick");
return { before, after: model.backend, reason: model.reason, pieces: pieces.join(""), texts: [text, expected, whole] };
"""
# A driver that computes something else: one weight never comes.
WRONG = """
const write = GPUQueue.prototype.writeBuffer;
GPUQueue.prototype.writeBuffer = function (buffer, at, data, offset, size) {
  if (size !== undefined) data = new Uint8Array(data.length);
  return write.call(this, buffer, at, data, offset, size);
};
const { load } = await import("./tiny.js");
const model = await load();
const named = await load({ backend: "webgpu" }).catch((error) => error.message);
return { backend: model.backend, reason: model.reason, named };
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    @cache
    def made(name: str, quantization: str) -> Path:
        out = tmp_path_factory.mktemp("webgpu") / "out"
        export(small(name, quantization), "webgpu", out, Options("tiny"))
        return out

    return made


def in_page(folder: Path, script: str) -> Any:
    """What a script gives that runs in a page beside the files of a folder, where the GPU is a software adapter."""
    server = Server(folder)
    with browser(seconds=240, flags=SOFTWARE) as page:
        page.open(f"{server.url}files.txt")
        page.wait("document.readyState === 'complete' && location.protocol === 'http:'")
        found = page.evaluate(f"(async () => {{ {script} }})()")
    server.stop()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "quantization"), MODELS)
def test_a_browser_finds_what_minitx_finds(folder, name: str, quantization: str) -> None:
    sources, beams = native_models.sentences(1, 5, 17, 64), (1, 3, 4)
    out, generation = folder(name, quantization), native_models.checkpoint(name, quantization).generation
    (out / "sources.json").write_text(json.dumps({"sources": sources, "beams": beams}))
    told = in_page(out, TRANSLATE)
    assert (told["backend"], told["text"].count("\n")) == ("webgpu", 2)
    engine = native_models.reference(name, quantization)
    expected = [
        [*best[0].tokens]
        for beam in beams
        for best in generate(engine, sources, dataclasses.replace(generation, beam=beam))
    ]
    assert told["found"] == expected


@pytest.mark.slow
def test_the_page_tells_which_gpu_it_uses(folder) -> None:
    server = Server(folder("post", "int8"))
    with browser(seconds=120, flags=SOFTWARE) as page:
        page.open(server.url)
        page.wait("document.getElementById('backend')?.textContent === 'webgpu (on google swiftshader)'")
    server.stop()


@pytest.mark.slow
def test_a_device_that_is_lost_is_left_in_the_middle_of_a_sentence(folder) -> None:
    told = in_page(folder("post", "int8"), LOST)
    assert (told["before"], told["after"]) == ("webgpu", "wasm-simd") and told["reason"].startswith("the GPU failed")
    assert len({*told["texts"], told["pieces"]}) == 1


@pytest.mark.slow
def test_a_gpu_that_computes_something_else_is_not_used(folder) -> None:
    told = in_page(folder("post", "int8"), WRONG)
    reason = "this GPU or its driver computes something else"
    assert told == {"backend": "wasm-simd", "reason": reason, "named": f"webgpu does not run here: {reason}"}
