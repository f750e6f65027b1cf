"""The native engine: a `Plan` compiled for this machine, run by threads of its own, without tinygrad.

The library, the packed weights and a description of both are an entry of `compiler.store`; this file opens one and
runs it. Sentences are packed without padding, so that any batch and any length is one and the same code.

Axes: B rows, S source, T target, K candidates, V vocabulary, C channels.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.packing import MAX_THREADS, PANEL, TOP_MAX, padded
from ..compiler.store import LIBRARY, WEIGHTS
from ..config import Config, Generation
from ..errors import DeviceError, Error, InputError
from ..paths import map_file
from ..weights.shortlist import Allowed, union
from .hypotheses import LENGTH_PENALTIES, NAN, Hypothesis, Limits

ENCODE, STEP = 0, 1  # the functions of the library, in the plan's order
ROWS, POSITION, TOP = 0, 1, 3  # what of `sizes` changes from step to step; all are in kernels/sizes.h
GOES_ON, NOT_A_NUMBER = -1, -2  # how a search stands: compiler/runtime/search.h
BUDGET = 20_000_000  # nanoseconds of a search after which Python may see to something else, such as Ctrl-C
FAILURES = {1: "out of memory for {rows} rows; try a smaller --batch-size or --beam, or shorter lines"}
LINES = ("tokens", "sources", "starts", "slots", "candidates", "allowed", "ids", "scores")  # of a state, for a step
Array = np.ndarray[Any, Any]
Described = dict[str, dict[str, dict[str, Any]]]  # what the description holds of each function's buffers


class Options(ctypes.Structure):
    """`Options` of compiler/runtime/search.h."""

    _fields_ = (*((name, ctypes.c_int32) for name in ("start", "end", "beam", "penalty")), ("alpha", ctypes.c_double))

    @classmethod
    def of(cls, generation: Generation) -> Options:
        penalty = list(LENGTH_PENALTIES).index(generation.length_penalty)
        return cls(generation.start, generation.end, generation.beam, penalty, generation.alpha)


def empty() -> Array:
    return np.empty(0, np.int32)


def memory(rows: int, width: int) -> Array:
    """Rows of so many bytes, not yet written, from a multiple of 64 on: then a vector lies in one line of the cache."""
    room = np.empty(rows * width + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + rows * width].reshape(rows, width)


def choose(lists: Sequence[Array], vocabulary: int) -> tuple[Array, Array]:
    """The tokens that any of some sentences allows, and of each of these, by sentence, whether it does: bits.

    `lists` are the tokens that each allows. No tokens stand for the whole vocabulary, which is no slower to go through
    than a large part of it; no bits for all the tokens. See kernels/shortlist.h for their layout.
    """
    tokens = union(lists)
    if whole := len(tokens) > vocabulary // 2:
        tokens = np.arange(vocabulary, dtype=np.int32)
    candidates = empty() if whole else tokens
    if all(len(own) == len(tokens) for own in lists):
        return candidates, empty()
    places = np.zeros(vocabulary, np.int32)
    places[tokens] = np.arange(len(tokens))
    allowed = np.zeros((len(lists), padded(len(tokens), PANEL)), bool)
    for row, own in zip(allowed, lists, strict=True):
        row[places[own]] = True
    return candidates, np.packbits(allowed, axis=1, bitorder="little")


@dataclass
class State:
    """Hypotheses under way. Row r is of sentence sources[r]; at time t it used row slots[t, r] of the caches."""

    starts: Array  # (sentences + 1,) int32: where the tokens of each begin
    sources: Array  # (capacity,) int32
    arrays: dict[str, Array]  # keys and values of the sources (S,C), caches (T,capacity,C), cells (capacity,C)
    candidates: Array  # int32: the target tokens that are looked at; none: all
    allowed: Array  # bits by sentence and candidate; none: all are allowed
    rows: int
    length: int  # T at most
    slots: Array  # (T,capacity) int32
    position: int = 0
    tokens: Array = field(default_factory=empty)  # (capacity,) int32, fed to the step
    ids: Array = field(default_factory=empty)  # (rows,K) int32, which it gives, in a flat array that may be longer
    scores: Array = field(default_factory=empty)  # the same in float32
    sizes: Array = field(default_factory=empty)  # int32, as kernels/sizes.h has them
    bound: Any = None  # the addresses of all of these; None when one has changed


class Library:
    """The compiled functions over their weights. Closed when nobody holds it any more."""

    def __init__(self, entry: Path, threads: int, instruction_set: str | None = None):
        self._opened = None
        if not 1 <= threads <= MAX_THREADS:
            raise InputError(f"threads must be from 1 to {MAX_THREADS}, not {threads}")
        self.held: object = None  # what keeps the entry there
        self.weights: mmap.mmap = map_file(entry / WEIGHTS)
        self.weight_bytes = len(self.weights)  # as they are stored, and as they lie in memory
        self._view = np.frombuffer(self.weights, np.uint8)
        try:
            self._library = ctypes.CDLL(str(entry / LIBRARY))
        except OSError as e:
            raise DeviceError(f"the compiled model cannot be loaded ({e}); run minitx cache --clear") from None
        library = self._library
        library.minitx_open.restype = library.minitx_close.restype = ctypes.c_void_p
        library.minitx_open.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
        library.minitx_run.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        library.minitx_time.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.minitx_close.argtypes = library.minitx_set.argtypes = [ctypes.c_void_p]
        library.minitx_set.restype = ctypes.c_char_p
        library.minitx_search_bytes.restype = ctypes.c_size_t
        library.minitx_search_start.argtypes = [ctypes.c_void_p] * 6
        library.minitx_search_start.restype = None
        library.minitx_search.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        library.minitx_hypothesis.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, *[ctypes.c_void_p] * 2]
        name = instruction_set.encode() if instruction_set else None
        self._opened = library.minitx_open(self._view.ctypes.data, threads, name)
        if not self._opened:
            if instruction_set:
                known = "minitx cache shows which were compiled"
                raise InputError(
                    f"instruction set {instruction_set!r} is not one that was compiled and runs here; {known}"
                )
            raise DeviceError(f"{entry}: has no code for this processor; run minitx cache --clear")
        self.threads, self.instruction_set = threads, library.minitx_set(self._opened).decode()

    def run(self, function: int, pointers: Any, sizes: Array) -> None:
        """Runs a function of the plan; the interpreter's lock is released meanwhile."""
        self._check(self._library.minitx_run(self._opened, function, pointers, sizes.ctypes.data), sizes)

    def search(
        self, pointers: Any, sizes: Array, generation: Generation, limits: Sequence[Limits]
    ) -> list[list[Hypothesis]]:
        """Runs a whole search over a step's buffers; the hypotheses of each sentence, best first."""
        library, length = self._library, max(limit.maximum for limit in limits)
        memory = np.empty(library.minitx_search_bytes(len(limits), generation.beam, length), np.uint8)
        both = np.array([(limit.minimum, limit.maximum) for limit in limits], np.int32)
        options, at = Options.of(generation), memory.ctypes.data
        library.minitx_search_start(
            self._opened, at, pointers, sizes.ctypes.data, ctypes.byref(options), both.ctypes.data
        )
        while (status := library.minitx_search(at, BUDGET)) == GOES_ON:
            pass
        self._check(status, sizes)
        tokens, score = (ctypes.c_int32 * length)(), ctypes.c_double()
        found: list[list[Hypothesis]] = [[] for _ in limits]
        for i, best in enumerate(found):
            while (count := library.minitx_hypothesis(at, i, len(best), tokens, ctypes.byref(score))) >= 0:
                best.append(Hypothesis(tuple(tokens[:count]), score.value))
        return found

    def _check(self, status: int, sizes: Array) -> None:
        """Raises what a run or search failed with."""
        if status == NOT_A_NUMBER:
            raise Error(NAN)
        if status:
            raise MemoryError(FAILURES[status].format(rows=sizes[ROWS]))

    def time(self, times: Array | None) -> None:
        """Adds the nanoseconds of a function's calls to `times` (calls + 1,) int64 from now on; None: no more.

        The last is what the first thread waited for the others.
        """
        self._times = times  # held, since the library writes there
        self._library.minitx_time(self._opened, None if times is None else times.ctypes.data)

    def __del__(self) -> None:
        if self._opened:
            self._library.minitx_close(self._opened)


class NativeEngine:
    """Runs the model of an entry. Tokens in `suppress` were built into the library's weights.

    `allowed` gives the target tokens that a source allows; without it every source allows all.
    """

    def __init__(self, config: Config, library: Library, functions: Described, allowed: Allowed | None = None):
        self.config, self.library, self._allowed = config, library, allowed
        self._buffers = {name: list(buffers.items()) for name, buffers in functions.items()}

    def _pointers(self, function: str, arrays: dict[str, Array]) -> Any:
        """The addresses of a function's buffers, in the plan's order."""
        names = [name for name, _ in self._buffers[function]]
        return (ctypes.c_void_p * len(names))(*(arrays[name].ctypes.data for name in names))

    def encode(self, tokens: Array, lengths: Array, length: int) -> State:
        """The state before the first of at most `length` tokens: sources (B,S) int32, the rest behind lengths (B,).

        Raises `InputError` for lengths over the model's: there are no positions for them.
        """
        inside = np.arange(tokens.shape[1])[None] < np.asarray(lengths)[:, None]  # (B,S)
        return self._encode(tokens[inside], np.asarray(lengths), length, len(lengths))

    def _encode(self, tokens: Array, lengths: Array, length: int, capacity: int) -> State:
        """The same for sources one behind the other, with room for so many rows."""
        longest = int(lengths.max(initial=0))
        if max(longest, length) > (most := self.config.max_length):
            raise InputError(f"{max(longest, length)} tokens, and the model takes {most}; split the text")
        starts = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=starts[1:])
        total = int(starts[-1])
        positions = np.arange(total, dtype=np.int32) - np.repeat(starts[:-1], lengths)
        candidates, allowed = empty(), empty()
        if self._allowed and total:
            lists = [self._allowed(tokens[a:b]) for a, b in pairwise(starts.tolist())]
            candidates, allowed = choose(lists, self.config.target_vocab)
        arrays = {"tokens": tokens.astype(np.int32, copy=False), "positions": positions, "starts": starts}
        arrays["candidates"] = candidates
        chosen = padded(len(candidates), PANEL)
        made = {  # (S,C), and of what is chosen (candidates,C)
            name: memory(chosen if buffer["extent"] == "chosen" else total, buffer["bytes"])
            for name, buffer in self._buffers["encode"]
            if buffer["role"] == "output"
        }
        if total:
            sizes = np.array([total, 0, len(lengths), 1, 0, longest, len(candidates), 0], np.int32)
            self.library.run(ENCODE, self._pointers("encode", arrays | made), sizes)
        rows = len(lengths)
        order, slots = np.arange(rows, dtype=np.int32), np.empty((length, 0), np.int32)
        state = State(starts, order, made, candidates, allowed, rows, length, slots)
        self._grow(state, capacity)
        return state

    def _grow(self, state: State, capacity: int) -> None:
        """Gives the caches of `state` that many rows, and keeps what they hold."""
        old = state.slots.shape[1]
        for name, buffer in self._buffers["step"]:
            width, extent = buffer["bytes"] // 4, buffer["extent"]
            if buffer["role"] != "state" or extent in ("source", "chosen"):
                continue
            shape = (state.length, capacity, width) if extent == "cache" else (capacity, width)
            array = np.empty(shape, np.float32) if extent == "cache" else np.zeros(shape, np.float32)
            if name in state.arrays:
                kept = state.arrays[name]
                used = (slice(state.position), slice(old)) if extent == "cache" else (slice(old),)
                array[used] = kept[used]
            state.arrays[name] = array
        slots = np.tile(np.arange(capacity, dtype=np.int32), (state.length, 1))  # (T,capacity)
        slots[:, :old] = state.slots
        sources = np.zeros(capacity, np.int32)
        sources[: len(state.sources)] = state.sources
        state.slots, state.sources, state.bound = slots, sources, None

    def step(self, state: State, tokens: Array, k: int) -> tuple[Array, Array]:
        """Feeds tokens (B,) and gives the k likeliest next ones: ids (B,K), log-probabilities (B,K), best first.

        Raises `InputError` for a step after the last that `encode` was told of.
        """
        if state.position >= state.length:
            raise InputError(f"a step after the last of {state.length}; encode with a greater length")
        k, rows = min(k, self.config.target_vocab, TOP_MAX), state.rows
        if state.bound is None or state.ids.size < rows * k:
            self._bind(state, k)
        state.tokens[:rows] = tokens
        state.sizes[[ROWS, POSITION, TOP]] = rows, state.position, k
        self.library.run(STEP, state.bound, state.sizes)
        state.position += 1
        size = rows * k
        return state.ids[:size].reshape(rows, k).copy(), state.scores[:size].reshape(rows, k).copy()

    def _bind(self, state: State, k: int) -> None:
        """Makes room for k candidates a row, and notes where everything is that a step reads and writes."""
        capacity, longest = state.slots.shape[1], int(np.diff(state.starts).max(initial=0))
        state.tokens, state.ids = np.zeros(capacity, np.int32), np.zeros(capacity * k, np.int32)
        state.scores = np.zeros(capacity * k, np.float32)
        shortlist = len(state.candidates), state.allowed.size > 0
        state.sizes = np.array([0, 0, len(state.starts) - 1, k, capacity, longest, *shortlist], np.int32)
        lines = {name: getattr(state, name) for name in LINES}
        state.bound = self._pointers("step", state.arrays | lines)

    def reorder(self, state: State, rows: Array) -> State:
        """The state, itself changed, whose row i is the old row rows[i]. Caches stay in place: `slots` points there."""
        count = len(rows)
        if count > state.slots.shape[1]:
            self._grow(state, count)
        state.sources[:count] = state.sources[rows]
        state.slots[: state.position, :count] = state.slots[: state.position, rows]
        for name, buffer in self._buffers["step"]:
            if buffer["role"] == "state" and buffer["extent"] == "rows":
                state.arrays[name][:count] = state.arrays[name][rows]
        state.rows = count
        return state

    def search(
        self, sources: Sequence[Sequence[int]], generation: Generation, limits: Sequence[Limits]
    ) -> list[list[Hypothesis]]:
        """What `greedy_search` and `beam_search` find, to the bit, without coming back to Python at each step."""
        tokens, lengths = np.array(list(chain.from_iterable(sources)), np.int32), np.array(list(map(len, sources)))
        longest = max(limit.maximum for limit in limits)
        state = self._encode(tokens, lengths, longest, len(sources) * generation.beam)
        self._bind(state, min(generation.beam + 1, self.config.target_vocab, TOP_MAX))
        return self.library.search(state.bound, state.sizes, generation, limits)
