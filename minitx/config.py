"""What a model is, as plain data: `Config` for its architecture, `Generation` for how it is searched.

Both are frozen dataclasses with one field for each choice, and are read from JSON strictly: an unknown
or missing field, a wrong type or a value outside its table is one `ConfigError` that lists what is valid.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .errors import ConfigError

T = TypeVar("T")

# The table that holds the rows of a choice. It is imported only when a value is looked up, so that a new
# norm or activation is one new row in one file.
CHOICES = {
    "norm": "nn.norm:NORMS",
    "placement": "nn.norm:PLACEMENTS",
    "activation": "nn.feedforward:ACTIVATIONS",
    "positions": "nn.positions:POSITIONS",
    "mixer": "nn.decoder:MIXERS",
    "tying": "nn.embedding:TYINGS",
    "quantization": "nn.quant:QUANTIZATIONS",
    "length_penalty": "engines.hypotheses:LENGTH_PENALTIES",
}


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """The row `name` of `table`, or a `ConfigError` that lists the valid names; `what` says whose they are."""
    if not isinstance(name, str) or name not in table:
        raise ConfigError(f"{what} {reprlib.repr(name)} is not known; choose one of: {', '.join(table)}")
    return table[name]


def choice(field: str, name: str) -> Any:
    """The row that the value `name` of the choice `field` stands for."""
    module, table = CHOICES[field].split(":")
    return pick(getattr(importlib.import_module(f"{__package__}.{module}"), table), name, field)


def check_type(value: Any, hint: Any) -> bool:
    """Whether `value` is of the annotated type: a float may be written as an int, a bool is never an int."""
    if get_origin(hint) is tuple:
        return isinstance(value, (tuple, list)) and all(check_type(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


hints_of = functools.cache(get_type_hints)  # which evaluates each annotation anew whenever it is asked


class Record:
    """A frozen dataclass that checks its own fields and goes to JSON and back."""

    def __post_init__(self) -> None:
        hints = hints_of(type(self))  # type: ignore[arg-type]
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, hint = getattr(self, field.name), hints[field.name]
            shown = reprlib.repr(value)  # of a hostile file, perhaps: short, however long or deep it is
            if not check_type(value, hint):
                wanted = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
                raise ConfigError(f"{self._what()}: {field.name} must be {wanted}, not {shown}")
            if get_origin(hint) is tuple:
                object.__setattr__(self, field.name, tuple(value))
            low, high = field.metadata.get("range", (None, None))
            if low is not None and not low <= value <= high:
                raise ConfigError(f"{self._what()}: {field.name} must be from {low} to {high}, not {shown}")
            if hint is float:
                object.__setattr__(self, field.name, float(value))
            if field.name in CHOICES:
                choice(field.name, value)

    @classmethod
    def _what(cls) -> str:
        return cls.__name__.lower()

    @classmethod
    def from_dict(cls: type[T], fields: Any) -> T:
        """The record whose fields are exactly those of `fields`; raises `ConfigError`."""
        what = cls._what()  # type: ignore[attr-defined]
        if not isinstance(fields, dict):
            raise ConfigError(f"{what}: expected an object of fields, got {type(fields).__name__}")
        names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        unknown, missing = [k for k in fields if k not in names], [n for n in names if n not in fields]
        if unknown:
            shown = ", ".join(map(reprlib.repr, unknown[:5]))
            raise ConfigError(f"{what}: unknown field {shown}; the fields are {', '.join(names)}")
        if missing:
            raise ConfigError(f"{what}: missing field {', '.join(missing)}")
        return cls(**fields)

    @classmethod
    def from_json(cls: type[T], text: str) -> T:
        """`from_dict` of a JSON text; raises `ConfigError`."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise ConfigError(f"{cls._what()}: not JSON ({str(e)[:80]})") from None  # type: ignore[attr-defined]
        return cls.from_dict(fields)  # type: ignore[attr-defined, no-any-return]

    @classmethod
    def restore(cls: type[T], fields: dict[str, Any]) -> T:
        """The record of fields that were checked before they were stored: no table is imported to look at them."""
        record = object.__new__(cls)
        for name, value in fields.items():
            object.__setattr__(record, name, tuple(value) if isinstance(value, list) else value)
        return record

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them: a tuple is a list."""
        fields: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())


def number(low: float, high: float, default: Any = dataclasses.MISSING) -> Any:
    """A numeric field that must lie in [low, high]."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class Config(Record):
    """The architecture: an encoder-decoder Transformer (Vaswani et al. 2017) and its variants."""

    source_vocab: int = number(1, 1 << 24)  # rows of the encoder's embedding
    target_vocab: int = number(1, 1 << 24)  # rows of the decoder's embedding and of the output
    d_model: int = number(1, 1 << 16, 512)  # width of the residual stream
    heads: int = number(1, 1 << 12, 8)  # attention heads, each d_model / heads wide
    d_ff: int = number(1, 1 << 20, 2048)  # width inside the feed-forward network
    encoder_layers: int = number(1, 256, 6)
    decoder_layers: int = number(1, 256, 6)
    norm: str = "layernorm"
    norm_epsilon: float = number(0.0, 1.0, 1e-6)
    placement: str = "post"  # where the norm stands in a residual connection
    final_norm: bool = False  # one more norm after the last layer of each stack
    activation: str = "relu"  # inside the feed-forward network
    positions: str = "sinusoidal"  # how the order of tokens is told
    max_length: int = number(1, 1 << 20, 512)  # longest source and longest target, in tokens
    embedding_scale: bool = True  # embeddings are multiplied by sqrt(d_model)
    tying: str = "all"  # which of source embedding, target embedding and output are one matrix
    output_bias: bool = False
    mixer: str = "attention"  # how a decoder position sees the ones before it
    quantization: str = "none"  # how matrices are stored
    keep: tuple[str, ...] = ()  # rules PART=ROW for matrices that are stored otherwise; the first that fits counts

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.heads:
            raise ConfigError(f"config: heads must divide d_model, but {self.heads} does not divide {self.d_model}")
        for rule in self.keep:
            importlib.import_module(f"{__package__}.nn.quant").check_rule(rule)
        choice("tying", self.tying).check(self)
        choice("positions", self.positions).check(self)


@dataclass(frozen=True)
class Generation(Record):
    """How a model is searched unless the caller says otherwise."""

    start: int = number(-1, 1 << 24)  # the first decoder input; -1 is the zero vector, no token (Marian)
    end: int = number(0, 1 << 24)  # the token that ends source and hypothesis
    suppress: tuple[int, ...] = ()  # tokens that a hypothesis never holds
    beam: int = number(1, 64, 1)
    length_penalty: str = "power"  # what a beam's scores are divided by
    alpha: float = number(0.0, 10.0, 1.0)  # its exponent
    length_factor: float = number(0.1, 100.0, 2.5)  # a hypothesis has at most this many tokens per source token

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end in self.suppress:
            raise ConfigError(f"generation: suppress holds the end token {self.end}, so that nothing would ever end")


# Named architectures: the two of Vaswani et al. 2017, table 3 (with their 37,000 shared English-German pieces),
# the student of Firefox Translations and Bergamot, and one for tests.
PRESETS: dict[str, dict[str, Any]] = {
    "transformer-base": {"source_vocab": 37000, "target_vocab": 37000},
    "transformer-big": {"source_vocab": 37000, "target_vocab": 37000, "d_model": 1024, "heads": 16, "d_ff": 4096},
    "marian-tiny": {
        "source_vocab": 32000,
        "target_vocab": 32000,
        "d_model": 256,
        "d_ff": 1536,
        "decoder_layers": 2,
        "norm_epsilon": 1e-9,
        "positions": "sinusoidal_split",
        "output_bias": True,
        "mixer": "ssru",
    },
    "tiny": {
        "source_vocab": 96,
        "target_vocab": 96,
        "d_model": 32,
        "heads": 4,
        "d_ff": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "max_length": 64,
    },
}


def preset(name: str, **changes: Any) -> Config:
    """The preset `name` with `changes` made to it; raises `ConfigError` for an unknown name or field."""
    fields = {**pick(PRESETS, name, "preset"), **changes}
    known = {f.name: f for f in dataclasses.fields(Config)}
    for field in fields:
        pick(known, field, "config field")
    return Config(**fields)
