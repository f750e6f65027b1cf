"""The native engine gives what the tinygrad engine does, for any batch, on any number of threads, in any process."""

from __future__ import annotations

import ctypes
import gc
import os
import threading

import numpy as np
import pytest
from native_models import built, native, reference, runnable, sentences

from minitx.compiler.packing import MAX_THREADS
from minitx.compiler.store import LIBRARY, WEIGHTS
from minitx.config import Generation
from minitx.engines.native import Library
from minitx.errors import DeviceError, FileError, InputError
from minitx.generation.search import generate

GENERATION = Generation(start=-1, end=0)
BATCH = (6, 3, 11, 1, 2, 40)
# Of scores: an activation between two integers may be rounded either way, after sums in another order.
TOLERANCES = {"none": 2e-4, "f16": 2e-4, "bf16": 2e-4, "int8w": 2e-4, "int8": 0.05, "int4": 0.05}


def batch(name, quantization):
    """Sentences; few where activations are rounded and rows are short: there, random weights come upon near ties."""
    return sentences(*(BATCH[:2] if name == "odd" and quantization in ("int8", "int4") else BATCH))


def same(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        np.testing.assert_allclose([h.score for h in ours], [h.score for h in theirs], atol=tolerance, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "quantization"),
    [*(("post", q) for q in TOLERANCES), ("ssru", "none"), ("ssru", "int8"), ("odd", "none"), ("odd", "int8")],
)
def test_tokens_are_those_of_the_tinygrad_engine(name, quantization):
    ours, theirs = native(name, quantization), reference(name, quantization)
    options = {"max_length": 9, "min_length": 3}
    for beam in (1, 3):
        generation = Generation(start=-1, end=0, beam=beam)
        found, expected = (generate(e, batch(name, quantization), generation, **options) for e in (ours, theirs))
        same(found, expected, TOLERANCES[quantization])


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("row", runnable()[1:], ids=lambda row: row.name)
def test_every_instruction_set_gives_the_same(row, quantization):
    for name in ("post", "odd"):
        best, other = native(name, quantization), native(name, quantization, instruction_set=row.name)
        assert other.library.instruction_set == row.name
        found = [generate(e, batch(name, quantization), GENERATION, n_best=2, max_length=9) for e in (best, other)]
        same(*found, TOLERANCES[quantization])


def test_any_number_of_threads_gives_the_same_to_the_bit():
    one = native("odd", threads=1)
    for threads in (2, 3, 7):
        more = native("odd", threads=threads)
        found, expected = (generate(e, sentences(*BATCH), GENERATION, n_best=4, max_length=6) for e in (more, one))
        assert found == expected


def test_a_batch_gives_what_each_sentence_gives_alone():
    engine = native("post")
    lengths = [1 + i % 13 for i in range(30)]
    together = generate(engine, sentences(*lengths), GENERATION, max_length=12, batch_size=17)
    alone = [generate(engine, [s], GENERATION, max_length=12)[0] for s in sentences(*lengths)]
    same(together, alone, 1e-5)


def test_rows_are_moved_dropped_and_repeated_like_those_of_the_tinygrad_engine():
    random = np.random.default_rng(3)
    tokens = random.integers(1, 96, (3, 8)).astype(np.int32)
    lengths = np.array([8, 2, 5])
    for name in ("post", "ssru"):
        engines = native(name), reference(name)
        states = [e.encode(tokens, lengths, 20) for e in engines]
        last = np.array([1, 2, 3], np.int32)
        for rows in ([0, 1, 2], [2, 0], [1, 1, 0, 0, 1], [4, 3, 2, 1, 0], [2]):
            (ids, scores), (ids_, scores_) = (e.step(s, last, 5) for e, s in zip(engines, states, strict=True))
            np.testing.assert_array_equal(ids, ids_)
            np.testing.assert_allclose(scores, scores_, atol=1e-4)
            states = [e.reorder(s, np.array(rows)) for e, s in zip(engines, states, strict=True)]
            last = ids[rows, 0]


def test_candidates_are_sorted_and_sum_to_one():
    engine = native("post")
    state = engine.encode(np.array([[3, 4, 0]], np.int32), np.array([3]), 4)
    ids, scores = engine.step(state, np.array([-1], np.int32), 80)
    assert ids.shape == (1, 80) and len(set(ids[0])) == 80
    assert (np.diff(scores[0]) <= 0).all()
    assert np.exp(scores[0].astype(np.float64)).sum() <= 1 + 1e-5


@pytest.mark.parametrize("token", [-1, -(2**31), 96, 2**31 - 1])
def test_a_token_outside_of_the_vocabulary_reads_nothing(token):
    engine = native("post")
    state = engine.encode(np.array([[token, 0]], np.int32), np.array([2]), 4)
    ids, scores = engine.step(state, np.array([token], np.int32), 1)
    assert 0 <= ids[0, 0] < 96 and np.isfinite(scores).all()


def test_lengths_that_the_model_does_not_have_are_told():
    engine, tokens = native("post"), np.zeros((1, 65), np.int32)
    for source, length in ((65, 4), (3, 65)):
        with pytest.raises(InputError, match="65 tokens, and the model takes 64"):
            engine.encode(tokens[:, :source], np.array([source]), length)
    state = engine.encode(tokens[:, :3], np.array([3]), 2)
    for _ in range(2):
        engine.step(state, np.array([1], np.int32), 1)
    with pytest.raises(InputError, match="a step after the last of 2"):
        engine.step(state, np.array([1], np.int32), 1)


def test_callers_in_several_threads_get_their_own_answers():
    engine = native("post")
    work = [sentences(*BATCH, seed=i) for i in range(4)]
    expected = [generate(engine, s, GENERATION, max_length=9) for s in work]
    found = {}

    def call(i):
        for _ in range(5):
            found[i] = generate(engine, work[i], GENERATION, max_length=9)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [found[i] for i in range(4)] == expected


def test_a_forked_process_goes_on_with_threads_of_its_own():
    engine = native("post")
    expected = generate(engine, sentences(*BATCH), GENERATION, max_length=9)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            right = generate(engine, sentences(*BATCH), GENERATION, max_length=9) == expected
            os.write(writer, b"right" if right else b"wrong")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 5) == b"right"
    assert generate(engine, sentences(*BATCH), GENERATION, max_length=9) == expected


def test_a_closed_model_leaves_no_thread():
    before = len(os.listdir("/proc/self/task"))
    engine = native("post", threads=6)
    generate(engine, sentences(3), GENERATION, max_length=3)
    assert len(os.listdir("/proc/self/task")) == before + 5
    del engine
    gc.collect()
    assert len(os.listdir("/proc/self/task")) == before


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1, 10_000])
def test_a_number_of_threads_out_of_range_is_told(threads):
    with pytest.raises(InputError, match=f"threads must be from 1 to {MAX_THREADS}, not {threads}"):
        native("post", threads=threads)


def test_what_is_no_library_is_told(tmp_path):
    folder, _ = built("post", "none")
    whole = (folder / LIBRARY).read_bytes()
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    for damaged in (whole[:100], b"\0" * len(whole), b"no library"):
        (tmp_path / LIBRARY).write_bytes(damaged)
        with pytest.raises(DeviceError, match="cannot be loaded"):
            Library(tmp_path, 1)
    (tmp_path / WEIGHTS).write_bytes(b"")
    with pytest.raises(FileError):
        Library(tmp_path, 1)


def test_an_instruction_set_that_is_not_there_is_told():
    with pytest.raises(InputError, match="instruction set 'mmx' is not one"):
        Library(built("post", "none")[0], 1, "mmx")


def test_the_library_exports_its_interface_and_nothing_else():
    library = ctypes.CDLL(str(built("post", "none")[0] / LIBRARY))
    searching = ("minitx_search_bytes", "minitx_search_start", "minitx_search", "minitx_hypothesis")
    for name in ("minitx_open", "minitx_run", "minitx_close", "minitx_set", *searching):
        assert hasattr(library, name)
    for name in ("team_wait", "encode", "step", "minitx_sets", "search_step", "minitx_layout"):
        assert not hasattr(library, name)
