"""The search in C finds what the search in Python does over the same engine: tokens, and scores to the bit.

Beside real models there is one in C whose log-probabilities are a hash of the source and of all that was decoded, as
the caches and cells have it, of few values so that many are equal.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_models import CONFIGS, built, checkpoint, native, sentences

from minitx.compiler import build, entry
from minitx.compiler.plan import Buffer, Function, Plan, plan
from minitx.compiler.store import LIBRARY, WEIGHTS
from minitx.config import Generation, preset
from minitx.engines import Searcher
from minitx.engines import native as native_engine
from minitx.engines.hypotheses import LENGTH_PENALTIES, Limits
from minitx.engines.native import Library, NativeEngine
from minitx.errors import Error
from minitx.generation.search import generate, search

NAN, EQUAL, ENDS = 90, 91, 92  # source tokens with which the model in C gives NaN, equal scores, the token 0 before all
MODEL = """
#include <string.h>
#include "runtime/runtime.h"
#include "kernels/sizes.h"

static unsigned mix(unsigned h, unsigned x) { h = (h ^ x) * 0x9e3779b1u; return h ^ h >> 15; }

static float value(unsigned h, int last, int position, int id) {
    if (last == 90 && position) return __builtin_nanf("");
    if (last == 91 || (last == 92 && !id)) return -0.3f;
    unsigned level = mix(h, (unsigned)id) % 5;
    return level == 4 ? -__builtin_inff() : -0.7f * (float)(level + 1);
}

static void encode(const Run *run, int thread) {
    if (!thread) memcpy(run->buffers[3], run->buffers[0], sizeof(int32_t) * (size_t)run->sizes[ROWS]);
}

static void step(const Run *run, int thread) {
    if (thread) return;
    const int32_t *tokens = run->buffers[0], *sources = run->buffers[1], *starts = run->buffers[2];
    const int32_t *slots = run->buffers[3], *memory = run->buffers[4];
    unsigned *cells = run->buffers[5], *cache = run->buffers[6];
    int32_t *ids = run->buffers[7];
    float *scores = run->buffers[8];
    const int position = run->sizes[POSITION], capacity = run->sizes[CAPACITY], top = run->sizes[TOP];
    for (int r = 0; r < run->sizes[ROWS]; r++) {
        unsigned h = cells[2 * r] = cells[2 * r + 1] = mix(cells[2 * r], (unsigned)tokens[r] + 7);
        cache[position * capacity + r] = h;
        for (int t = 0; t <= position; t++) h = mix(h, cache[t * capacity + slots[t * capacity + r]]);
        const int end = starts[sources[r] + 1], last = memory[end - 1];
        for (int i = starts[sources[r]]; i < end; i++) h = mix(h, (unsigned)memory[i]);
        for (int count = 0, id = 0; id < VOCABULARY; id++) {
            const float v = value(h, last, position, id);
            int i = count < top ? count++ : top;
            for (; i > 0 && scores[r * top + i - 1] < v; i--) {
                if (i == top) continue;
                scores[r * top + i] = scores[r * top + i - 1];
                ids[r * top + i] = ids[r * top + i - 1];
            }
            if (i == top) continue;
            scores[r * top + i] = v;
            ids[r * top + i] = id;
        }
    }
}

const Function functions_hash[] = {encode, step};
size_t scratch_hash(int keys) { return (size_t)keys; }
"""
ENCODE = {"tokens": "input", "positions": "input", "starts": "input", "0.cross.k": "output"}
STEP = {"tokens": "input", "sources": "input", "starts": "input", "slots": "input", "0.cross.k": "state"}
STEP |= {"0.rnn.c": "state", "0.self.k": "state", "ids": "output", "scores": "output"}
BYTES, EXTENTS = {"0.rnn.c": 8}, {"0.cross.k": "source", "0.self.k": "cache"}


@functools.cache
def hashing(vocabulary: int) -> tuple[Path, NativeEngine]:
    """The model in C, and where it is."""

    def function(name, roles):
        buffers = (Buffer(b, role, BYTES.get(b, 4), 0, EXTENTS.get(b, "rows")) for b, role in roles.items())
        return Function(name, tuple(buffers), (), 64)

    config = preset("tiny", target_vocab=vocabulary, tying="none", max_length=1 << 20)
    planned = Plan(config.to_dict(), (function("encode", ENCODE), function("step", STEP)), {}, (), 0)
    _, *others = entry.units(planned, [build.InstructionSet("hash")])
    model = build.Unit("hash", f"enum {{ VOCABULARY = {vocabulary} }};{MODEL}")
    folder = Path(tempfile.mkdtemp(prefix="minitx-test-"))
    (folder / LIBRARY).write_bytes(build.build([model, *others], entry.HERE))
    (folder / WEIGHTS).write_bytes(bytes(64))
    return folder, NativeEngine(config, Library(folder, 1), entry.interfaces(planned))


class Steps:
    """An engine without its own search."""

    def __init__(self, engine):
        self.config, self.encode, self.step, self.reorder = engine.config, engine.encode, engine.step, engine.reorder


def same(engine, sources, generation, limits):
    """What the engine's own search finds, seen to be what the one in Python finds."""
    assert isinstance(engine, Searcher) and not isinstance(Steps(engine), Searcher)
    found = search(engine, sources, generation, limits)
    assert found == search(Steps(engine), sources, generation, limits)
    return found


@pytest.mark.parametrize(("name", "quantization"), [("post", "none"), ("ssru", "int8"), ("odd", "int8w")])
def test_real_models_give_the_same_for_all_options(name, quantization):
    engine = native(name, quantization)
    both = engine, Steps(engine)
    for beam, penalty, (least, most) in product(range(1, 7), LENGTH_PENALTIES, [(0, None), (4, 9), (0, 1), (5, 5)]):
        generation = Generation(start=-1, end=0, beam=beam, length_penalty=penalty, alpha=0.8)
        options = {"min_length": least, "max_length": most, "n_best": 1 + beam // 2, "batch_size": 4}
        own, theirs = (generate(e, sentences(6, 3, 11, 1, 2, 17), generation, **options) for e in both)
        assert own == theirs


@given(st.data())
def test_any_search_gives_the_same(data):
    vocabulary = data.draw(st.sampled_from([1, 2, 3, 8, 90]))
    source = st.lists(st.integers(1, 95).filter(lambda t: t != NAN), min_size=1, max_size=5)
    sources = data.draw(st.lists(source, min_size=1, max_size=5))
    limits = [Limits(*sorted(data.draw(st.tuples(st.integers(0, 9), st.integers(1, 9))))) for _ in sources]
    generation = Generation(
        start=-1,
        end=data.draw(st.integers(0, vocabulary)),
        beam=data.draw(st.integers(1, 64) if data.draw(st.booleans()) else st.integers(1, 6)),
        length_penalty=data.draw(st.sampled_from(list(LENGTH_PENALTIES))),
        alpha=data.draw(st.sampled_from([0.0, 0.6, 1.0, 2.5, 10.0])),
    )
    same(hashing(vocabulary)[1], sources, generation, limits)


@pytest.mark.parametrize("beam", [1, 2, 6])
def test_equal_logits_give_the_first_tokens(beam):
    generation = Generation(start=-1, end=0, beam=beam)
    [found] = same(hashing(8)[1], [[3, EQUAL]], generation, [Limits(2, 5)])
    assert len(found) == beam and found[0].tokens[:2] == (1, 1)


@pytest.mark.parametrize("beam", [1, 2, 6])
def test_an_end_that_comes_at_once_leaves_no_token(beam):
    found = same(hashing(8)[1], [[3, ENDS], [4], [5, ENDS]], Generation(start=-1, end=0, beam=beam), [Limits(0, 9)] * 3)
    assert found[0][0].tokens == found[2][0].tokens == () and found[0][0].score == np.float32(-0.3)


@pytest.mark.parametrize("beam", [2, 6, 64])
def test_a_vocabulary_smaller_than_the_beam_gives_as_many_as_there_are(beam):
    [found] = same(hashing(3)[1], [[3, EQUAL]], Generation(start=-1, end=0, beam=beam), [Limits(0, 2)])
    assert len(found) == min(beam, 1 + 2 + 4)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_model_that_gives_nan_is_refused(beam, tmp_path):
    generation = Generation(start=-1, end=0, beam=beam)
    with pytest.raises(Error, match="the model gives NaN"):
        search(hashing(8)[1], [[3], [4, NAN]], generation, [Limits(5, 5)] * 2)
    folder, functions = built("post", "none")
    model = checkpoint("post")
    for weight in model.weights.values():
        weight[:] = np.nan
    (tmp_path / LIBRARY).write_bytes((folder / LIBRARY).read_bytes())
    with (tmp_path / WEIGHTS).open("wb") as file:
        entry.write_weights(plan(model.config), model, file)
    damaged = NativeEngine(CONFIGS["post"], Library(tmp_path, 2), functions)
    with pytest.raises(Error, match="the model gives NaN"):
        search(damaged, sentences(3, 5), generation, [Limits(0, 5)] * 2)


@pytest.mark.parametrize("beam", [1, 5])
def test_a_search_that_is_left_after_each_step_finds_the_same(beam, monkeypatch):
    sources, limits = [[3, EQUAL], [4, 5], [6, 7, 8]], [Limits(2, 20)] * 3
    whole = same(hashing(8)[1], sources, Generation(start=-1, end=0, beam=beam), limits)
    monkeypatch.setattr(native_engine, "BUDGET", 0)
    assert search(hashing(8)[1], sources, Generation(start=-1, end=0, beam=beam), limits) == whole


INTERRUPTED = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from test_native_search import EQUAL, Generation, Limits, Library, hashing, search
_, engine = hashing(8)
engine.search([[EQUAL]], Generation(start=-1, end=0), [Limits(9, 9)])
def interrupt():
    global sent
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(0.2, interrupt).start()
try:
    engine.search([[EQUAL]], Generation(start=-1, end=0), [Limits(1 << 20, 1 << 20)])  # minutes
except KeyboardInterrupt:
    print(time.monotonic() - sent)
"""


def test_ctrl_c_ends_a_long_search():
    argv = [sys.executable, "-c", INTERRUPTED, str(Path(__file__).parent)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=50)
    assert run.returncode == 0 and float(run.stdout) < 0.2, run  # 20 ms, where nobody else takes the core


@pytest.mark.parametrize("compiler", ["clang", "gcc"])
def test_it_is_plain_c_without_a_warning(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", f"-I{entry.HERE}"]
    source = entry.HERE / "runtime" / "search.c"
    subprocess.run([compiler, *flags, "-c", str(source), "-o", str(tmp_path / "search.o")], check=True)


def test_length_penalties_have_the_numbers_of_the_header():
    header = (entry.HERE / "runtime" / "search.h").read_text()
    assert [name.lower() for name in re.findall(r"PENALTY_(\w+)", header)] == list(LENGTH_PENALTIES)
