"""Hugging Face's Marian: the same numbers and tokens as transformers, and what is refused and how.

Axes: B batch, T target, S source, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest
import torch
from damage import flipped, truncated
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "text"))

from safetensors.numpy import load_file, save_file
from spm_models import message, model, real_models
from transformers import GenerationConfig, MarianConfig, MarianMTModel, MarianTokenizer

import minitx
from minitx.errors import Error
from minitx.nn.ops import Tensor, padding_mask
from minitx.nn.transformer import Transformer
from minitx.weights import checkpoint as checkpoints
from minitx.weights.importers import read_folder

# A new shape is a new set of kernels to compile: few examples, and nothing to shrink.
few = settings(max_examples=6, deadline=None, print_blob=True, phases=set(Phase) - {Phase.shrink})


@dataclasses.dataclass(frozen=True)
class Tiny:
    """One small model: what of the options the tests vary."""

    d: int = 16
    heads: int = 4
    ffn: int = 24
    encoder: int = 2
    decoder: int = 1
    source: int = 12
    target: int = 12
    activation: str = "swish"
    scale: bool = True
    share: bool = True
    tie: bool = True
    positions: int = 64


def build(tiny: Tiny, seed: int = 0) -> MarianMTModel:
    """A model of transformers; the last token is the padding, and the first the end."""
    torch.manual_seed(seed)
    pad = min(tiny.source, tiny.target) - 1
    config = MarianConfig(
        vocab_size=tiny.source,
        decoder_vocab_size=tiny.source if tiny.share else tiny.target,
        d_model=tiny.d,
        encoder_layers=tiny.encoder,
        decoder_layers=tiny.decoder,
        encoder_attention_heads=tiny.heads,
        decoder_attention_heads=tiny.heads,
        encoder_ffn_dim=tiny.ffn,
        decoder_ffn_dim=tiny.ffn,
        activation_function=tiny.activation,
        scale_embedding=tiny.scale,
        share_encoder_decoder_embeddings=tiny.share,
        tie_word_embeddings=tiny.tie,
        max_position_embeddings=tiny.positions,
        pad_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=None,
        decoder_start_token_id=pad,
        init_std=0.3,
    )
    made = MarianMTModel(config).eval()
    with torch.no_grad():
        made.final_logits_bias.normal_()
        for name, weight in made.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.3)
    made.generation_config.bad_words_ids = [[pad]]
    made.generation_config.renormalize_logits = True
    return made


def vocabulary(size: int) -> dict[str, int]:
    return {piece: i for i, piece in enumerate(["</s>", "<unk>", *(f"\u2581w{i}" for i in range(size - 3)), "<pad>"])}


def write_folder(folder: Path, tiny: Tiny, seed: int = 0) -> MarianMTModel:
    """The folder of a model of transformers, with vocabularies of its sizes; gives the model."""
    made = build(tiny, seed)
    made.save_pretrained(folder)
    pieces = [("</s>", 0.0, 3), ("<unk>", 0.0, 2), *((f"\u2581w{i}", -1.0 - i, 1) for i in range(5))]
    for side in ("source", "target"):
        (folder / f"{side}.spm").write_bytes(model(pieces, message(_3=1), message(_1="identity")))
    (folder / "vocab.json").write_text(json.dumps(vocabulary(tiny.source)))
    if not tiny.share:
        (folder / "target_vocab.json").write_text(json.dumps(vocabulary(tiny.target)))
    return made


def batch(tiny: Tiny, random: np.random.Generator, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sources (B,S), each ending with the end, and their lengths."""
    tokens = np.full((len(lengths), max(lengths)), min(tiny.source, tiny.target) - 1)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = [*random.integers(1, tiny.source - 1, length - 1), 0]
    return tokens, np.array(lengths)


def attention_mask(tokens: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.arange(tokens.shape[1]) < lengths[:, None]).long()


@st.composite
def tinies(draw: st.DrawFn) -> Tiny:
    heads, share = draw(st.integers(1, 3)), draw(st.booleans())
    size = draw(st.integers(5, 20))
    return Tiny(
        d=2 * heads * draw(st.sampled_from([1, 8])),
        heads=heads,
        ffn=draw(st.sampled_from([1, 24])),
        encoder=draw(st.integers(1, 2)),
        decoder=draw(st.integers(1, 2)),
        source=size,
        target=size if share else draw(st.integers(5, 20)),
        activation=draw(st.sampled_from(["relu", "gelu", "gelu_new", "swish", "silu"])),
        scale=draw(st.booleans()),
        share=share,
        tie=draw(st.booleans()),
    )


@few
@given(tiny=tinies(), seed=st.integers(0, 99))
def test_logits_are_those_of_transformers(tiny: Tiny, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, random = tmp_path_factory.mktemp("hf"), np.random.default_rng(seed)
    theirs = write_folder(folder, tiny, seed)
    tokens, lengths = batch(tiny, random, [9, 4])
    target = random.integers(0, tiny.target, (2, 7))
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(tokens), "decoder_input_ids": torch.tensor(target)}
        wanted = theirs(**inputs, attention_mask=attention_mask(tokens, lengths)).logits.numpy()
    found = read_folder(folder)
    ours = Transformer(found.config, "CPU", seed=None).load(found.weights)
    arrays = (Tensor(a.astype(np.int32), device="CPU") for a in (tokens, target))
    logits = ours.forward(*arrays, Tensor(padding_mask(lengths, tokens.shape[1]), device="CPU")).numpy()
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tiny, MarianMTModel]:
    tiny, folder = (
        Tiny(source=30, target=30, d=32, scale=False, share=False, tie=False, decoder=2),
        tmp_path_factory.mktemp("both"),
    )
    theirs = write_folder(folder, tiny, 3)
    theirs.final_logits_bias[0, 0] += 1  # so that some sentences end, and not all at once
    theirs.save_pretrained(folder)
    return folder, tiny, theirs


@pytest.mark.parametrize("engine", ["jit", "native"])
@pytest.mark.parametrize("beam", [1, 4])
def test_tokens_are_those_of_transformers(both: tuple[Path, Tiny, MarianMTModel], beam: int, engine: str) -> None:
    folder, tiny, theirs = both
    tokens, lengths = batch(tiny, np.random.default_rng(5), [3, 7, 8, 8, 5, 6, 2, 8])
    search = GenerationConfig.from_dict(theirs.generation_config.to_dict())
    search.update(num_beams=beam, max_new_tokens=20, early_stopping="never" if beam > 1 else False, length_penalty=1.2)
    with torch.no_grad():
        mask = attention_mask(tokens, lengths)
        wanted = theirs.generate(torch.tensor(tokens), attention_mask=mask, generation_config=search).tolist()
    ours = minitx.load(folder, engine=engine)
    sources = [t[:n].tolist() for t, n in zip(tokens, lengths, strict=True)]
    found = [best[0].tokens for best in ours.generate(sources, beam=beam, alpha=1.2, max_length=20)]
    assert found == [tuple(t for t in row[1:] if t not in (0, tiny.source - 1)) for row in wanted]
    assert len({len(tokens) for tokens in found}) > 2, "they end by themselves"


def test_search_is_as_its_own_file_says(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny())
    plain = read_folder(tmp_path).generation
    assert (plain.start, plain.end, plain.suppress, plain.beam, plain.alpha) == (11, 0, (11,), 1, 1.0)
    edit(tmp_path, "config.json", num_beams=3, length_penalty=0.5, bad_words_ids=[[11], [4]])
    edit(tmp_path, "generation_config.json", num_beams=6, bad_words_ids=[[11], [0], [7]])
    found = read_folder(tmp_path).generation
    assert (found.beam, found.alpha, found.suppress) == (6, 0.5, (7, 11))
    (tmp_path / "generation_config.json").unlink()
    found = read_folder(tmp_path).generation
    assert (found.beam, found.alpha, found.suppress) == (3, 0.5, (4, 11))


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))


def tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Writes the tensors of a folder again, changed."""
    path = folder / "model.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)


def test_half_precision_is_read(tmp_path: Path) -> None:
    theirs = write_folder(tmp_path, Tiny())
    for dtype in (torch.float16, torch.bfloat16):
        theirs.to(dtype).save_pretrained(tmp_path)
        found, state = read_folder(tmp_path).weights, theirs.state_dict()
        for ours, name in (("source.weight", "model.shared.weight"), ("output.bias", "final_logits_bias")):
            assert found[ours].dtype == np.float32
            assert np.array_equal(found[ours], state[name].float().numpy().reshape(found[ours].shape))


def test_copies_and_positions_are_checked_and_dropped(tmp_path: Path) -> None:
    theirs = write_folder(tmp_path, Tiny())
    wanted = read_folder(tmp_path).weights
    table = theirs.state_dict()["model.encoder.embed_positions.weight"].numpy()

    def add(arrays: dict[str, Any]) -> None:
        arrays["lm_head.weight"] = arrays["model.shared.weight"].copy()
        arrays["model.encoder.embed_positions.weight"] = table

    tensors(tmp_path, add)
    found = read_folder(tmp_path).weights
    assert found.keys() == wanted.keys() and all(np.array_equal(found[n], wanted[n]) for n in wanted)
    tensors(tmp_path, lambda arrays: arrays.update({"lm_head.weight": arrays["lm_head.weight"] + 1}))
    assert "lm_head.weight differs" in one_line(tmp_path)
    tensors(tmp_path, lambda arrays: arrays.pop("lm_head.weight"))
    name = "model.encoder.embed_positions.weight"
    tensors(tmp_path, lambda arrays: arrays.update({name: arrays[name][::-1].copy()}))
    assert "positions" in one_line(tmp_path)


def test_it_survives_minitx_own_file(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny(share=False, target=15))
    before = read_folder(tmp_path)
    checkpoints.save(before, tmp_path / "own.safetensors")
    after = checkpoints.load(tmp_path / "own.safetensors")
    assert after.config == before.config and after.generation == before.generation
    assert after.source.to_dict() == before.source.to_dict() and after.target.to_dict() == before.target.to_dict()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[minitx.model.Checkpoint, MarianTokenizer]:
    """Two real models of 32,000 pieces under one vocabulary that lacks some of both, and transformers' own reader."""
    folder, random = tmp_path_factory.mktemp("real"), np.random.default_rng(0)
    pieces: dict[str, None] = {}
    for side, path in zip(("source", "target"), reversed(real_models()), strict=True):
        (folder / f"{side}.spm").write_bytes(path.read_bytes())
        known = minitx.text.tokenizer.read(path).pieces[2:]
        pieces |= dict.fromkeys(known[i] for i in sorted(random.choice(len(known), 27000, replace=False)))
    order = [">>pt<<", *random.permutation(list(pieces)).tolist()]
    names = ["</s>", "<unk>", *order, "<pad>"]
    made = build(Tiny(source=len(names), target=len(names)))
    made.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    return read_folder(folder), MarianTokenizer.from_pretrained(folder)


def test_ids_and_texts_are_those_of_transformers(tokenizers: tuple[Any, MarianTokenizer]) -> None:
    found, theirs = tokenizers
    data = Path(__file__).parents[1] / "data"
    texts = [
        *(data / "sentences.en.txt").read_text().splitlines(),
        *(data / "sentences.pt.txt").read_text().splitlines(),
    ]
    texts += [
        "",
        " a  b ",
        "\u6f22\u5b57 \U0001f600\u6f22 x",
        ">>pt<< Hello there",
        ">>pt<<Hello",
        "fi\ufb01",
        "a >>pt<< b",
    ]
    for text in texts:
        assert [*found.source.encode(text), 0] == theirs(text).input_ids, text
        ids = found.target.encode(text)
        assert [*ids, 0] == theirs(text_target=text).input_ids, text
        wanted = theirs.decode(ids, skip_special_tokens=True, use_source_tokenizer=False)
        assert found.target.decode(ids).strip() == wanted, text
    random = np.random.default_rng(1)
    for _ in range(100):
        ids = random.integers(0, theirs.vocab_size, 20).tolist()
        wanted = theirs.decode(ids, skip_special_tokens=True, use_source_tokenizer=False)
        assert found.target.decode(ids).strip() == wanted
    with pytest.raises(minitx.InputError):
        found.source.decode([theirs.vocab_size])


one_line = functools.partial(damage.one_line, run=read_folder)


def test_everything_unsupported_is_named_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny())
    wrong = {
        "activation_function": "tanh",
        "normalize_before": True,
        "normalize_embedding": True,
        "static_position_embeddings": False,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 25,
        "d_model": "16",
        "no_repeat_ngram_size": 3,
        "repetition_penalty": 1.2,
        "forced_bos_token_id": 4,
        "bad_words_ids": [[4, 5]],
        "eos_token_id": [0, 1],
        "forced_eos_token_id": 3,
    }
    edit(tmp_path, "config.json", **wrong)
    edit(tmp_path, "generation_config.json", **dict.fromkeys(wrong, ...))
    text = one_line(tmp_path)
    assert not [name for name in wrong if name not in text]
    assert one_line(tmp_path).startswith(str(tmp_path / "config.json"))


BAD: dict[str, tuple[str, Any, str]] = {
    "another family": ("config.json", {"model_type": "bart"}, "model_type 'bart' (only 'marian')"),
    "no end": ("generation_config.json", {"eos_token_id": [0, 1]}, "eos_token_id"),
    "a head that does not divide": (
        "config.json",
        {"encoder_attention_heads": 5, "decoder_attention_heads": 5},
        "heads",
    ),
    "an absurd size": ("config.json", {"d_model": 1 << 40}, "d_model"),
    "an absurd beam": ("generation_config.json", {"num_beams": 10**9}, "beam"),
    "an odd penalty": ("generation_config.json", {"length_penalty": -1}, "alpha"),
    "other layers": ("config.json", {"encoder_layers": 3}, "missing tensors"),
    "fewer layers": ("config.json", {"encoder_layers": 1}, "unknown tensors"),
    "another width": ("config.json", {"encoder_ffn_dim": 25, "decoder_ffn_dim": 25}, "wrong shapes"),
    "no JSON": ("config.json", b"{", "not JSON"),
    "no object": ("config.json", b"[]", "not an object"),
    "no UTF-8": ("config.json", b"\xff", "not UTF-8"),
    "empty": ("config.json", b"", "is empty"),
    "a vocabulary with a gap": ("vocab.json", {"<pad>": 12}, "id of its own"),
    "an id that is none": ("vocab.json", {"<pad>": True}, "id of its own"),
    "no unknown": ("vocab.json", b'{"</s>": 0}', "<unk>"),
    "a smaller vocabulary": ("vocab.json", b'{"</s>": 0, "<unk>": 1}', "2 tokens"),
    "a vocabulary that is a list": ("vocab.json", b"[]", "not an object"),
    "no tokenizer": ("source.spm", b"junk", "source.spm"),
    "no weights": ("model.safetensors", b"junk", "model.safetensors"),
}


@pytest.mark.parametrize("name, change, wanted", BAD.values(), ids=BAD)
def test_a_damaged_folder_is_one_line(tmp_path: Path, name: str, change: Any, wanted: str) -> None:
    write_folder(tmp_path, Tiny())
    if isinstance(change, bytes):
        (tmp_path / name).write_bytes(change)
    else:
        edit(tmp_path, name, **change)
    assert wanted in one_line(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "source.spm", "target.spm", "vocab.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, Tiny())
    (tmp_path / name).unlink()
    assert name in one_line(tmp_path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "save_pretrained" in one_line(tmp_path)


def test_files_cut_or_flipped_are_an_error_or_another_model(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny())
    random = np.random.default_rng(0)

    def survives() -> bool:
        try:
            read_folder(tmp_path)
        except Error as e:
            assert "\n" not in str(e)
            return False
        return True

    for name in ("config.json", "generation_config.json", "vocab.json", "source.spm", "model.safetensors"):
        path = tmp_path / name
        whole = path.read_bytes()
        for _ in flipped(path, random.integers(0, min(len(whole), 6000), 60).tolist(), random):
            survives()
        for _ in truncated(path, 30, random):
            assert not survives() or name == "source.spm"
        path.write_bytes(whole)
        assert survives()
