"""What users hold: `load` gives a `Model`, which takes text and gives text."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from .config import pick
from .engines import Engine
from .engines.hypotheses import Hypothesis, Limits
from .errors import DeviceError, InputError
from .generation.search import check, generate, greedy_steps, length_limits
from .text.split import fit, sentences
from .weights.checkpoint import Checkpoint, save


@dataclasses.dataclass(frozen=True)
class Translation:
    """A text in the target language: its pieces, its score (the sum over its sentences), seconds by stage.

    The seconds are those of all texts that were translated together.
    """

    text: str
    tokens: tuple[str, ...]
    score: float
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Request:
    """What `load` was asked for."""

    name: str | os.PathLike[str]
    device: str
    threads: int | None
    quantize: str | None
    keep: tuple[str, ...]
    shortlist: bool
    notice: Callable[[str], object]
    warn: Callable[[str], object]


Opened = tuple[Checkpoint, Engine]


def jit_engine(request: Request) -> Opened:
    """The tinygrad engine on a backend that has passed its self-test."""
    from .engines.devices import ensure
    from .engines.jit import JitEngine
    from .nn.transformer import Transformer
    from .weights.names import open_model

    checkpoint = open_model(request.name, request.quantize, request.keep)
    model = Transformer(checkpoint.config, ensure(request.device, request.warn), seed=None).load(checkpoint.weights)
    allowed = checkpoint.allowed if request.shortlist else None
    return checkpoint, JitEngine(model, checkpoint.generation.suppress, request.notice, allowed)


def native_engine(request: Request) -> Opened:
    """The compiled engine, which runs on the CPU alone."""
    from .engines.ready import open_native

    if request.device.upper() != "CPU":
        raise DeviceError(f"the native engine runs on CPU, not on {request.device}; leave out engine, or choose jit")
    r = request
    return open_native(r.name, r.threads, r.quantize, r.keep, r.notice, r.warn, r.shortlist)


ENGINES: dict[str, Callable[[Request], Opened]] = {"native": native_engine, "jit": jit_engine}


def load(
    name: str | os.PathLike[str],
    *,
    device: str = "CPU",
    engine: str | None = None,
    threads: int | None = None,
    quantize: str | None = None,
    keep: Sequence[str] = (),
    shortlist: bool = True,
    notice: Callable[[str], object] = lambda message: None,
    warn: Callable[[str], object] = warnings.warn,
) -> Model:
    """The model called `name`: a name of `minitx models`, a `.safetensors` file, or a checkpoint's folder.

    `device` is a backend of `minitx devices`, `engine` one of `ENGINES`: by default the native one on a CPU, and where
    that cannot be had the tinygrad engine, after `warn` was told why. `threads` are the native engine's, by default all
    cores. `quantize` is a row of `nn.quant.QUANTIZATIONS`, by default as the model is stored; `keep` holds rules
    PART=ROW for matrices that are stored otherwise. A model that came with a `shortlist` looks only at the target
    tokens that it allows a source, unless that is False. `notice` is told what takes long. Raises an `Error` that says
    in one line what is wrong: `FileError` for the model, `DeviceError` for the backend, `InputError` for an option.
    """
    request = Request(name, device, threads, quantize, tuple(keep), shortlist, notice, warn)
    if engine is None and device.upper() == "CPU":
        try:
            return Model(*native_engine(request), native_engine, request)
        except DeviceError as e:
            warn(f"the native engine is not used: {e}")
    opener = pick(ENGINES, engine or "jit", "engine")
    return Model(*opener(request), opener, request)


class Model:
    """A checkpoint and the engine that runs it.

    Options of the calls below: `beam`, `length_penalty` and `alpha` replace the model's own (see `Generation`);
    `n_best`, `min_length`, `max_length`, `batch_size` and `progress` are those of `generation.search.generate`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: Engine,
        opener: Callable[[Request], Opened] | None = None,
        request: Request | None = None,
    ):
        self.checkpoint, self.engine, self._opener, self._request = checkpoint, engine, opener, request
        self.config, self.generation = checkpoint.config, checkpoint.generation

    @overload
    def __call__(self, text: str, **options: Any) -> str: ...
    @overload
    def __call__(self, text: Sequence[str], **options: Any) -> list[str]: ...
    def __call__(self, text: str | Sequence[str], **options: Any) -> str | list[str]:
        """The translation of one text, or of each of a list; the options are those of `translate`."""
        found = [best[0].text for best in self.translate([text] if isinstance(text, str) else text, **options)]
        return found[0] if isinstance(text, str) else found

    def generate(self, tokens: Sequence[Sequence[int]], **options: Any) -> list[list[Hypothesis]]:
        """The hypotheses of each sentence, best first: source tokens, the end included, to target tokens."""
        fields = {"beam", "length_penalty", "alpha"} & options.keys()
        own = {name: value for name in fields if (value := options.pop(name)) is not None}
        generation = dataclasses.replace(self.generation, **own) if own else self.generation
        return generate(self.engine, tokens, generation, **options)

    def translate(self, texts: Sequence[str], split: bool = True, **options: Any) -> list[list[Translation]]:
        """The `n_best` translations of each text, best first.

        A text is translated sentence by sentence, and what stands between sentences, line ends included, stays.
        With split=False each text is one sentence, and `InputError` is raised for one that the model cannot take.
        """
        started = time.perf_counter()
        parts = [self.parts(text, split) for text in texts]
        tokens = [sentence for pairs in parts for sentence, _ in pairs]
        tokenized = time.perf_counter()
        found = iter(self.generate(tokens, **options))
        searched = time.perf_counter()
        texts_found = [self.join([(next(found), after) for _, after in pairs]) for pairs in parts]
        seconds = {
            "tokenize": tokenized - started,
            "search": searched - tokenized,
            "detokenize": time.perf_counter() - searched,
        }
        return [[dataclasses.replace(t, seconds=seconds) for t in best] for best in texts_found]

    def encode(self, sentence: str) -> list[int]:
        """The source tokens of a sentence, with the end; none for one that is empty."""
        tokens = self.checkpoint.source.encode(sentence)
        return [*tokens, self.generation.end] if tokens else []

    def parts(self, text: str, split: bool) -> list[tuple[list[int], str]]:
        """The tokens of what is translated at a time of a text, and the whitespace after each."""
        longest = self.config.max_length
        if not split:
            if (size := len(tokens := self.encode(text))) > longest:
                raise InputError(
                    f"text {text[:30]!r}... is {size} tokens, and the model takes {longest} at a time; "
                    "let it be split into sentences"
                )
            return [(tokens, "")]
        encode = functools.cache(self.encode)
        found: list[tuple[str, str]] = []
        for sentence, after in sentences(text):
            *most, (last, gap) = fit(sentence, lambda part: len(encode(part)) <= longest) or [("", "")]
            found += [*most, (last, gap + after)]
        return [(encode(sentence), after) for sentence, after in found]

    def join(self, found: list[tuple[list[Hypothesis], str]]) -> list[Translation]:
        """The n-th best text is made of the n-th best hypotheses of its sentences."""
        count = max((len(hypotheses) for hypotheses, _ in found), default=0)
        best = []
        for n in range(max(1, count)):
            text, tokens, score = "", [], 0.0
            for hypotheses, after in found:
                if hypotheses:
                    hypothesis = hypotheses[min(n, len(hypotheses) - 1)]
                    text += self.checkpoint.target.decode(hypothesis.tokens)
                    tokens += [self.checkpoint.target.pieces[t] for t in hypothesis.tokens]
                    score += hypothesis.score
                text += after
            best.append(Translation(text, tuple(tokens), score, {}))
        return best

    def stream(self, text: str, max_length: int | None = None) -> Iterator[str]:
        """The greedy translation of a text in pieces, as they are found; together they are the whole."""
        for tokens, after in self.parts(text, True):
            check(self.engine, [tokens])
            limits: list[Limits] = [length_limits(self.engine, self.generation, len(tokens), 0, max_length)]
            found: list[int] = []
            shown = whole = ""
            for _, token, _ in greedy_steps(self.engine, [tokens], self.generation, limits) if tokens else ():
                if token != self.generation.end:
                    found.append(token)
                whole = self.checkpoint.target.decode(found)
                if whole.startswith(shown) and not whole.endswith("\N{REPLACEMENT CHARACTER}"):
                    yield whole[len(shown) :]
                    shown = whole
            yield whole[len(shown) :] + after

    def quantize(self, quantization: str, keep: Sequence[str] = ()) -> Model:
        """The same model with its matrices stored by a row of QUANTIZATIONS, or by another as rules PREFIX=ROW say.

        It is opened anew, on an engine like this one's. Raises `ConfigError` for a model that is quantized otherwise,
        and `InputError` for one that did not come from `load`.
        """
        if self._opener is None or self._request is None:
            raise InputError("this model was not loaded; quantize its checkpoint with minitx.weights.quant.quantized")
        request = dataclasses.replace(self._request, quantize=quantization, keep=tuple(keep))
        return Model(*self._opener(request), self._opener, request)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the whole model, tokenizers and defaults included, to one `.safetensors` file."""
        save(self.checkpoint, path)

    def export(
        self,
        target: str,
        out: str | os.PathLike[str],
        *,
        name: str | None = None,
        force: bool = False,
        notice: Callable[[str], object] = lambda message: None,
        **options: Any,
    ) -> dict[str, int]:
        """Writes the model into a folder, as a package that runs without minitx; gives the bytes of each file.

        `target` is a row of `minitx export --list`; `name` is by default the model's. The other options are those of
        `compiler.targets.package.Options`, as `threads`, the most that the package can use. Raises `InputError` for an
        option, `DeviceError` for a compiler that a target needs, and `FileError` for a folder that holds other files,
        unless `force`, which replaces only what an export wrote.
        """
        from .compiler import export
        from .compiler.targets.package import Options

        pick(export.TARGETS, target, "target")
        named = name or (Path(self._request.name).stem if self._request else "")
        if not named:
            raise InputError("this model was not loaded from anything that has a name; give it one by name=")
        whole = self._request is None or self._request.shortlist
        checkpoint = self.checkpoint if whole else dataclasses.replace(self.checkpoint, shortlist=None)
        return export.export(checkpoint, target, Path(out), Options(named, notice=notice, **options), force)
