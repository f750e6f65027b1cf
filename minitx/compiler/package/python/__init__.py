"""MODEL_TITLE. The compiled model and its weights are beside this file; nothing else is needed.

    import MODEL_MODULE

    m = MODEL_MODULE.load()  # threads=1: by default all cores
    m("How are you today?")
    m(["One.", "Two."], beam=4)  # a list in, a list out
    m.generate([m.encode("Hello.")])  # ids in: lists, arrays, numpy; [[Hypothesis(tokens, score)]] out
    for piece in m.stream("How are you?"):
        print(piece, end="", flush=True)

Names and behaviour are those of minitx's own Model. A model may be used by several threads: one call runs at a time,
and two models run at once. After a fork, the child opens the model anew at its first call, since the threads of a model
do not come along; a stream that was under way does not go on there. A model that is pickled is opened anew, too.

Made by minitx MODEL_VERSION.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import operator
import os
import queue
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

# What is this model's, and what its C header has: names of errors by number, of the fields of structures in order.
LONGEST, THREADS = int("MODEL_LONGEST"), int("MODEL_THREADS")
BEAM, MOST_BEAM = int("MODEL_BEAM"), int("MODEL_MOST_BEAM")  # what there is room for at first, and at most
SOURCES, TARGETS = int("MODEL_SOURCE_TOKENS"), int("MODEL_TARGET_TOKENS")  # tokens of the vocabularies
ERRORS = ["MODEL_ERRORS"]
LIMITS, OPTIONS = ["MODEL_LIMITS"], ["MODEL_OPTIONS"]

__all__ = ["DeviceError", "Error", "FileError", "Hypothesis", "InputError", "Model", "load"]
__version__ = "MODEL_VERSION"


class Error(Exception):
    """Anything that can be told in one line."""


class FileError(Error):
    """A weight file that is missing or damaged, or is another model's."""


class DeviceError(Error):
    """A library that does not run on this machine."""


class InputError(Error):
    """A text, tokens or options that the model cannot take."""


KINDS = {
    **dict.fromkeys(["NO_FILE", "NOT_WEIGHTS", "VERSION", "OTHER_MODEL", "TRUNCATED", "DAMAGED"], FileError),
    **dict.fromkeys(["LIMITS", "OPTIONS", "TOKEN", "LONG"], InputError),
    "PROCESSOR": DeviceError,
}
MESSAGES = {"LONG": f"longer than the {LONGEST} tokens that the model takes at a time; split it"}  # else the library's


@dataclass(frozen=True)
class Hypothesis:
    """Target tokens, without the end, and their score: log-probability over the length penalty."""

    tokens: tuple[int, ...]
    score: float


_Piece = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)
_TYPES: dict[str, Any] = {"piece": _Piece, "user": ctypes.c_void_p}  # others are int


class _Limits(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in LIMITS)


class _Options(ctypes.Structure):
    _fields_ = tuple((name, _TYPES.get(name, ctypes.c_int)) for name in OPTIONS)


_ADDRESS, _BYTES, _INT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
_IDS, _SIZE_OUT, _INT_OUT = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(_SIZE), ctypes.POINTER(_INT)
_HOW = ctypes.POINTER(_Options)
_FUNCTIONS = {
    "open": [ctypes.POINTER(_ADDRESS), _BYTES, ctypes.POINTER(_Limits)],
    "close": [_ADDRESS],
    "translate": [_ADDRESS, _BYTES, _SIZE, _HOW, _ADDRESS, _SIZE, _SIZE_OUT],
    "generate": [_ADDRESS, _IDS, _INT, _HOW, _IDS, _INT, _INT_OUT, ctypes.POINTER(ctypes.c_double)],
    "encode": [_ADDRESS, _BYTES, _SIZE, _IDS, _INT, _INT_OUT],
    "decode": [_ADDRESS, _IDS, _INT, _ADDRESS, _SIZE, _SIZE_OUT],
    "message": [_INT],
}


@functools.cache
def _library() -> dict[str, Any]:
    """The functions of the compiled library."""
    path = Path(__file__).with_name("MODEL_LIBRARY")
    try:
        library = ctypes.CDLL(str(path), use_errno=True)
    except OSError as e:
        raise DeviceError(f"{path}: cannot be loaded ({e}); install the wheel for this kind of machine") from None
    functions = {name: getattr(library, f"minitx_{name}") for name in _FUNCTIONS}
    for name, arguments in _FUNCTIONS.items():
        functions[name].argtypes = arguments
    functions["close"].restype, functions["message"].restype = None, ctypes.c_char_p
    return functions


def _check(error: int, what: object = "") -> None:
    """Raises what an error of the library stands for; `what` says of which thing."""
    if error:
        message = MESSAGES.get(ERRORS[error]) or _library()["message"](error).decode()
        raise KINDS.get(ERRORS[error], Error)(f"{what}: {message}" if what else message)


def load(weights: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> Model:
    """The model, on so many threads, by default all cores that this process may use.

    `weights` is its weight file, by default the one that was installed. Raises an `Error` that says in one line what is
    wrong: `FileError` for the weights, `DeviceError` for the library, `InputError` for an option.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = Path(__file__).with_name("MODEL_NAME.weights")
    return Model(own if weights is None else weights, min(available, THREADS) if threads is None else threads)


class Model:
    """An open model; `load` gives one. `with` closes it in the end.

    Options of the calls below: `beam` is the number of hypotheses that are kept at a time (1 is greedy search; by
    default the model's), `min_length` and `max_length` the shortest and longest translation of a sentence, in tokens. A
    text is translated sentence by sentence, unless `split` is False.
    """

    def __init__(self, weights: str | os.PathLike[str], threads: int):
        self._handle: ctypes.c_void_p | None = None  # None: to be opened
        self._closed, self._lock = False, threading.Lock()
        self._weights, self._threads, self._beam = Path(weights), _count("threads", threads, THREADS), BEAM
        with self._held(0):
            _models.add(self)

    @contextlib.contextmanager
    def _held(self, beam: int) -> Iterator[ctypes.c_void_p]:
        """The open model, for one call, with room for so large a beam."""
        with self._lock:
            if self._closed:
                raise Error("MODEL_NAME: the model is closed; load it again")
            if self._handle is None or beam > self._beam:
                opened = self._open(max(beam, self._beam))
                self._release()
                self._handle, self._beam = opened, max(beam, self._beam)
            yield self._handle

    def _open(self, beam: int) -> ctypes.c_void_p:
        opened, limits = ctypes.c_void_p(), _Limits(beam=beam, threads=self._threads)
        path = os.fsencode(self._weights)
        if b"\0" in path:
            raise FileError(f"{str(self._weights)!r}: no file can have this name; name the weight file")
        error = _library()["open"](opened, path, limits)
        if error and ERRORS[error] == "NO_FILE":
            why = os.strerror(ctypes.get_errno())
            raise FileError(f"{self._weights}: cannot be read ({why}); check the name and its permissions")
        _check(error, self._weights)
        return opened

    def _release(self) -> None:
        if self._handle is not None:
            _library()["close"](self._handle)
            self._handle = None

    def close(self) -> None:
        """Gives back what the model holds, once the call under way has ended; it cannot be used after that."""
        with self._lock:
            self._closed = True
            self._release()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and getattr(self, "_handle", None) is not None:
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Model, (self._weights, self._threads)

    def _after_fork(self) -> None:
        """In a child: what the parent opened is left alone, with threads that are not there and perhaps in a call."""
        self._handle, self._lock = None, threading.Lock()

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self,
        text: str,
        *,
        split: bool = True,
        beam: int | None = None,
        min_length: int = 0,
        max_length: int | None = None,
    ) -> str: ...
    @overload
    def __call__(
        self,
        text: Sequence[str],
        *,
        split: bool = True,
        beam: int | None = None,
        min_length: int = 0,
        max_length: int | None = None,
    ) -> list[str]: ...
    def __call__(
        self,
        text: str | Sequence[str],
        *,
        split: bool = True,
        beam: int | None = None,
        min_length: int = 0,
        max_length: int | None = None,
    ) -> str | list[str]:
        """The translation of one text, or of each of a list."""
        options = _options(beam, max_length, min_length, split)
        if isinstance(text, str):
            return self._translate(text, options)
        return [self._translate(each, options) for each in text]

    def _translate(self, text: str, options: _Options) -> str:
        data, needed = _utf8(text), ctypes.c_size_t()
        room = 4 * len(data) + 4096
        with self._held(options.beam) as model:
            while True:
                out = ctypes.create_string_buffer(room)
                error = _library()["translate"](model, data, len(data), options, out, room, needed)
                if not error or ERRORS[error] != "OUTPUT":
                    break
                room = needed.value
        _check(error, f"text {_short(text)}")
        return ctypes.string_at(out, needed.value - 1).decode(errors="replace")

    def generate(
        self,
        tokens: Iterable[Iterable[int]],
        *,
        beam: int | None = None,
        min_length: int = 0,
        max_length: int | None = None,
    ) -> list[list[Hypothesis]]:
        """The best hypothesis of each sentence, in a list: source tokens, the end included, to target tokens.

        A sentence without tokens has none.
        """
        options = _options(beam, max_length, min_length)
        sources = [_ids(sentence, SOURCES, f"sentence {i}: ") for i, sentence in enumerate(tokens, 1)]
        return [self._generate(source, options, f"sentence {i}") for i, source in enumerate(sources, 1)]

    def _generate(self, source: ctypes.Array[ctypes.c_int32], options: _Options, what: str) -> list[Hypothesis]:
        target, count, score = (ctypes.c_int32 * LONGEST)(), ctypes.c_int(), ctypes.c_double()
        with self._held(options.beam) as model:
            error = _library()["generate"](model, source, len(source), options, target, LONGEST, count, score)
        _check(error, what)
        return [Hypothesis(tuple(target[: count.value]), score.value)] if len(source) else []

    def encode(self, sentence: str) -> list[int]:
        """The source tokens of a sentence, with the end; none for one that is empty."""
        data, count, room = _utf8(sentence), ctypes.c_int(), LONGEST
        with self._held(0) as model:
            while True:
                ids = (ctypes.c_int32 * room)()
                error = _library()["encode"](model, data, len(data), ids, room, count)
                if not error or ERRORS[error] != "OUTPUT":
                    break
                room = count.value
        _check(error, f"text {_short(sentence)}")
        return list(ids[: count.value])

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of target tokens."""
        ids, needed = _ids(tokens, TARGETS), ctypes.c_size_t()
        room = 64 * len(ids) + 64
        with self._held(0) as model:
            while True:
                out = ctypes.create_string_buffer(room)
                error = _library()["decode"](model, ids, len(ids), out, room, needed)
                if not error or ERRORS[error] != "OUTPUT":
                    break
                room = needed.value
        _check(error)
        return ctypes.string_at(out, needed.value - 1).decode(errors="replace")

    def stream(self, text: str, max_length: int | None = None) -> Iterator[str]:
        """The greedy translation of a text in pieces, as they are found; together they are the whole.

        A thread of its own translates, and does not wait for who reads: the model is free again as soon as it has the
        whole. A stream that is closed early stops it.
        """
        options, data = _options(1, max_length), _utf8(text)
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        stopped, process, shown = threading.Event(), os.getpid(), bytearray()

        def told(user: object, piece: Any, size: int) -> int:
            shown.extend(piece[:size])
            pieces.put(piece[:size].decode(errors="replace"))
            return int(stopped.is_set())

        def translate() -> None:
            try:
                whole = self._translate(text, options)
                pieces.put(whole[len(shown.decode(errors="replace")) :])  # more than there was room for at first
                pieces.put(None)
            except BaseException as e:
                pieces.put(e)

        options.piece = _Piece(told)
        if not data:
            return
        worker = threading.Thread(target=translate, name="MODEL_NAME stream", daemon=True)
        worker.start()
        try:
            while True:
                if os.getpid() != process:
                    raise Error("a stream does not go on in a process that was forked; start it there")
                piece = pieces.get()
                if piece is None:
                    return
                if isinstance(piece, BaseException):
                    raise piece
                if piece:
                    yield piece
        finally:
            stopped.set()
            if os.getpid() == process:
                worker.join()


_models: weakref.WeakSet[Model] = weakref.WeakSet()


def _forked() -> None:
    for model in list(_models):
        model._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _count(name: str, value: int, most: int | None = None) -> int:
    count = operator.index(value)
    if count < 1 or (most is not None and count > most):
        raise InputError(f"{name} must be {f'1 to {most}' if most else '1 or more'}, not {count}")
    return count


def _options(beam: int | None, max_length: int | None, min_length: int = 0, split: bool = True) -> _Options:
    options = _Options(minimum=max(0, min(operator.index(min_length), LONGEST)), no_split=int(not split))
    if beam is not None:
        options.beam = _count("beam", beam, MOST_BEAM)
    if max_length is not None:
        options.maximum = min(_count("max_length", max_length), LONGEST)
    return options


def _utf8(text: str) -> bytes:
    if not isinstance(text, str):
        raise InputError(f"a text must be a str, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as e:
        code = ord(text[e.start])
        raise InputError(f"text: character {e.start} is half of a surrogate pair (U+{code:04X}); remove it") from None


def _short(text: str) -> str:
    return repr(text) if len(text) <= 30 else f"{text[:30]!r}..."


def _ids(tokens: Iterable[int], vocabulary: int, where: str = "") -> ctypes.Array[ctypes.c_int32]:
    """Tokens for C; raises `InputError` for one that the vocabulary does not have."""
    ids = [operator.index(token) for token in tokens]
    for token in ids:
        if not 0 <= token < vocabulary:
            raise InputError(f"{where}token {token} is not in the vocabulary of {vocabulary}")
    return (ctypes.c_int32 * len(ids))(*ids)
