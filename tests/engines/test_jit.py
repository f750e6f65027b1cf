"""The tinygrad engine: the right numbers, and nothing compiled twice."""

import numpy as np
import pytest

from minitx.config import Generation, preset
from minitx.engines.jit import JitEngine, bucket, top
from minitx.generation.search import generate
from minitx.nn.ops import Tensor
from minitx.nn.transformer import Transformer

GENERATION = Generation(start=-1, end=0)
CONFIGS = {"attention": preset("tiny"), "ssru": preset("tiny", mixer="ssru", placement="pre", final_norm=True)}


@pytest.fixture(scope="module", params=CONFIGS)
def engine(request):
    return JitEngine(Transformer(CONFIGS[request.param], "CPU", 5))


def sentences(*lengths, seed=0):
    random = np.random.default_rng(seed)
    return [[*random.integers(1, 96, n - 1).tolist(), 0] for n in lengths]


def greedy_by_forward(model, source, steps):
    """Greedy search by teacher forcing over and over, and the log-probability of what it finds."""
    inputs, total = [-1], 0.0
    for _ in range(steps):
        batch = (Tensor(np.array([ids], np.int32), device="CPU") for ids in (source, inputs))
        logits = model.forward(*batch).numpy()[0, -1].astype(np.float64)
        token = int(logits.argmax())
        total += logits[token] - np.log(np.exp(logits).sum())
        if token == 0:
            break
        inputs.append(token)
    return tuple(inputs[1:]), total


def test_greedy_is_what_teacher_forcing_gives(engine):
    [[found]] = generate(engine, sentences(6), GENERATION, max_length=4)
    tokens, total = greedy_by_forward(engine.model, sentences(6)[0], 4)
    assert found.tokens == tokens
    assert found.score * 4 == pytest.approx(total, abs=1e-4) or len(tokens) < 4


@pytest.mark.slow
@pytest.mark.parametrize("n_best", [1, 3])
def test_a_batch_gives_what_each_sentence_gives_alone(engine, n_best):
    batch = sentences(3, 9, 5, 2, 12, 7, 4)
    together = generate(engine, batch, GENERATION, n_best=n_best, max_length=12, batch_size=4)
    for sentence, hypotheses in zip(batch, together, strict=True):
        [alone] = generate(engine, [sentence], GENERATION, n_best=n_best, max_length=12)
        assert [h.tokens for h in hypotheses] == [h.tokens for h in alone]
        np.testing.assert_allclose([h.score for h in hypotheses], [h.score for h in alone], atol=1e-5)


def test_a_second_sentence_of_the_same_bucket_compiles_nothing(engine, monkeypatch):
    for _ in range(3):  # run once, recorded once, replayed
        generate(engine, sentences(5), GENERATION, max_length=6)
    jits, forbidden = dict(engine._jits), []
    monkeypatch.setattr("tinygrad.engine.realize.to_program", lambda *a: forbidden.append(a))
    monkeypatch.setattr(engine.model, "decode_step", lambda *a: forbidden.append(a))
    monkeypatch.setattr(engine.model, "encode", lambda *a: forbidden.append(a))
    for length in (3, 7, 8):
        assert generate(engine, sentences(length, seed=length), GENERATION, max_length=6)[0][0].tokens
    assert not forbidden and engine._jits == jits


def test_two_states_under_way_do_not_disturb_each_other(engine):
    one, two = (np.array(sentences(5, seed=s), np.int32) for s in (1, 2))
    lengths = np.array([5])
    for _ in range(3):
        engine.step(engine.encode(one, lengths, 4), np.array([-1]), 1)
    alone = engine.step(engine.encode(one, lengths, 4), np.array([-1]), 1)
    first, second = engine.encode(one, lengths, 4), engine.encode(two, lengths, 4)
    other = engine.step(second, np.array([-1]), 1)
    assert [a.tolist() for a in engine.step(first, np.array([-1]), 1)] == [a.tolist() for a in alone]
    assert other[1].tolist() != alone[1].tolist()


def test_suppressed_tokens_are_never_proposed(engine):
    [[free]] = generate(engine, sentences(4), GENERATION, max_length=3)
    assert free.tokens
    held = JitEngine(engine.model, suppress=(free.tokens[0],))
    [[other]] = generate(held, sentences(4), GENERATION, max_length=3)
    assert free.tokens[0] not in other.tokens
    ids, scores = held.step(held.encode(np.array(sentences(4), np.int32), np.array([4]), 3), np.array([-1]), 96)
    assert ids[0, -1] == free.tokens[0] and scores[0, -1] == -np.inf
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mixer", ["attention", "ssru"])
def test_a_longest_length_between_two_buckets_is_used_to_its_end(mixer):
    config = preset("tiny", mixer=mixer, max_length=11, encoder_layers=1, decoder_layers=1)
    engine = JitEngine(Transformer(config, "CPU", 5), suppress=(0,))
    [[found]] = generate(engine, sentences(11), GENERATION, max_length=99)
    assert len(found.tokens) == 11


def test_buckets_are_powers_of_two():
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 33)] == [1, 2, 4, 4, 8, 64]
    assert [bucket(n, 8) for n in (1, 8, 9)] == [8, 8, 16]


def test_top_is_sorted_with_the_smaller_id_first_where_scores_tie():
    logits = np.array([[0.0, 3.0, 1.0, 3.0, -np.inf]], np.float32)
    ids, scores = top(logits, 4)
    assert ids.tolist() == [[1, 3, 2, 0]]
    np.testing.assert_allclose(scores[0], logits[0, ids[0]] - np.log(np.exp(logits[0]).sum()), rtol=1e-6)
    assert top(logits, 99)[0].shape == (1, 5)
