"""The Python interface: text in, text out, documents whole."""

import numpy as np
import pytest

import minitx
from minitx.errors import ConfigError, InputError
from minitx.model import Model
from minitx.text.tokenizer import read
from minitx.weights.names import open_model


@pytest.fixture(scope="module")
def model():
    return minitx.load("en-pt")


class Echo:
    """An engine's stand-in whose translation of a sentence is the sentence: what is left is minitx's own text work."""

    def __init__(self, config):
        self.config = config

    def encode(self, tokens, lengths, length):
        return {"sources": [t[:n] for t, n in zip(tokens.tolist(), lengths, strict=True)], "position": 0}

    def step(self, state, tokens, k):
        ids = [[s[min(state["position"], len(s) - 1)], 5][:k] for s in state["sources"]]
        state["position"] += 1
        return np.array(ids, np.int32), np.full((len(ids), k), -0.5)

    def reorder(self, state, rows):
        return {**state, "sources": [state["sources"][row] for row in rows]}


@pytest.fixture(scope="module")
def echo():
    checkpoint = open_model("en-pt")
    return Model(checkpoint, Echo(checkpoint.config))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "One.",
        "One. Two? Three!",
        "A title\n\nA paragraph. Of two sentences.\n\n\n  Another one.\n",
        "Windows\r\nlines. Here.\r\n",
        "word " * 700 + "end.",
        "x" * 3000,
    ],
)
def test_a_document_keeps_its_paragraphs_and_loses_nothing(echo, text):
    assert "".join(echo(text).split()) == "".join(text.split())
    assert [line.strip() == "" for line in echo(text).split("\n")] == [line.strip() == "" for line in text.split("\n")]
    assert len(echo.parts("word " * 700, True)) == 2


def test_lists_come_back_in_order(echo):
    texts = ["Long, longer, longest of them all.", "", "Short.", "Two. Sentences."]
    assert echo(texts) == texts
    assert echo.translate(texts)[3][0].score == pytest.approx(-0.5 * 2)
    assert echo([]) == []


def test_pieces_of_a_stream_are_the_whole(echo):
    text = "Olá, você! A second sentence, with 😀 in it.\n\nAnd a paragraph."
    pieces = list(echo.stream(text))
    assert "".join(pieces) == echo(text) and len(pieces) > 10
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_one_text_that_may_not_be_split_is_refused_by_name(echo):
    with pytest.raises(InputError, match=r"text 'word word .*the model takes 512"):
        echo("word " * 700, split=False)
    assert echo("One. Two.", split=False) == "One. Two."


def test_the_examples_of_the_readme_hold(model):
    assert model("How are you today?") == "Como você está hoje?"
    best = model.translate(["One.", "Two."], beam=4, n_best=2)
    assert model(["One.", "Two."], beam=4) == [translations[0].text for translations in best]
    assert "".join(model.stream("How are you?")) == model("How are you?")


def test_generate_takes_and_gives_ids(model):
    tokens = [model.encode("Hello."), model.encode("How are you today?")]
    [[hello], [today]] = model.generate(tokens)
    assert model.checkpoint.target.decode(hello.tokens) == "Olá."
    assert today.score < 0 and model.generation.end not in today.tokens
    [[short]] = model.generate(tokens[1:], max_length=2)
    assert short.tokens == today.tokens[:2]
    [[long]] = model.generate(tokens[:1], min_length=6)
    assert len(long.tokens) >= 6
    best = model.generate(tokens, beam=3, n_best=3)
    assert all(len(h) == 3 and h[0].score >= h[1].score >= h[2].score for h in best)


def test_a_saved_model_gives_the_same(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = minitx.load(path)
    texts = ["The children were playing happily in the garden.", "No."]
    assert again(texts) == model(texts)
    assert again.generate([model.encode(texts[0])]) == model.generate([model.encode(texts[0])])


def test_unknown_choices_are_refused_with_the_valid_ones():
    with pytest.raises(ConfigError, match="engine 'warp' is not known; choose one of: native, jit"):
        minitx.load("en-pt", engine="warp")
    with pytest.raises(AttributeError):
        minitx.nonsense  # noqa: B018


def test_the_tokenizer_of_the_model_is_that_of_its_file(en_pt, model):
    tokenizer = read(next(en_pt.glob("vocab*.spm")))
    assert model.encode("Hello there.") == [*tokenizer.encode("Hello there."), 0]
