"""minitx's layers are PyTorch's: the same weights, random shapes and masks, both norm placements, within 1e-5.

Axes: B batch, T target, S source, H heads, D head size, C channels.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from minitx.config import Config
from minitx.nn.attention import Attention, SelfAttention, causal_mask
from minitx.nn.decoder import Decoder, DecoderLayer
from minitx.nn.encoder import Encoder, EncoderLayer
from minitx.nn.feedforward import FeedForward
from minitx.nn.norm import LayerNorm
from minitx.nn.ops import Tensor, padding_mask, parameters
from minitx.nn.transformer import Transformer

EPSILON = 1e-5  # PyTorch's own
MASKS = ["none", "padding", "causal", "random"]
# A new shape is a new set of kernels, which takes a second or so to compile: few examples, from small sets, so
# that there is nothing to shrink either.
few = settings(max_examples=6, deadline=None, print_blob=True, phases=set(Phase) - {Phase.shrink})
each = settings(few, max_examples=3)  # of every mask with every placement
seeds = st.integers(0, 2**32 - 1)
lengths = st.sampled_from([1, 3, 6])

masks = pytest.mark.parametrize("mask", MASKS)
placements = pytest.mark.parametrize("placement", ["post", "pre"])


@st.composite
def configs(draw, layers=0):
    """Small models with any number of heads; a test of one placement changes it."""
    heads = draw(st.sampled_from([1, 2, 3, 4]))
    return Config(
        source_vocab=11,
        target_vocab=13,
        d_model=heads * draw(st.sampled_from([2, 8])),
        heads=heads,
        d_ff=draw(st.sampled_from([1, 24])),
        encoder_layers=layers or 1,
        decoder_layers=draw(st.integers(1, layers)) if layers else 1,
        norm_epsilon=EPSILON,
        placement=draw(st.sampled_from(["post", "pre"])),
        activation=draw(st.sampled_from(["relu", "gelu"])),
        final_norm=True,
        tying="none",
    )


def torch_arguments(config):
    return {
        "d_model": config.d_model,
        "nhead": config.heads,
        "dim_feedforward": config.d_ff,
        "dropout": 0.0,
        "activation": config.activation,
        "layer_norm_eps": config.norm_epsilon,
        "batch_first": True,
        "norm_first": config.placement == "pre",
    }


def randomized(module, seed):
    """The PyTorch module with every weight drawn anew: no bias stays 0 and no gain 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise * tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else tensor * 0 + 0.7 + 0.3 * noise)
    return module


# PyTorch's names to ours, in this order; norm2 and norm3 depend on the kind of layer.
RENAMES = [
    (r"\bself_attn\.", "self."),
    (r"\bmultihead_attn\.", "cross."),
    (r"\bout_proj\.", "output."),
    (r"\blinear1\.", "feedforward.up."),
    (r"\blinear2\.", "feedforward.down."),
    (r"\bnorm1\.", "self_residual.norms.0."),
    (r"\bnorm3\.", "feedforward_residual.norms.0."),
]


def renamed(state):
    """A PyTorch state dict as our names and numpy arrays, with the packed projections taken apart."""
    out = {}
    for name, value in state.items():
        layer, found, rest = name.rpartition("norm2.")
        if found:
            decoder = f"{layer}norm3.weight" in state
            name = f"{layer}{'cross' if decoder else 'feedforward'}_residual.norms.0.{rest}"
        for old, new in RENAMES:
            name = re.sub(old, new, name)
        if "in_proj_" in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[name.replace("in_proj_", f"{part}.")] = rows.numpy()
        else:
            out[name] = value.numpy()
    return out


def carry(theirs, ours):
    """Our module with the weights of theirs; the names agree both ways."""
    weights, own = renamed(theirs.state_dict()), parameters(ours)
    assert set(weights) == set(own)
    for name, tensor in own.items():
        assert tuple(tensor.shape) == weights[name].shape, name
        tensor.replace(Tensor(weights[name], device="CPU"))
    return ours


def random_input(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def ours(x):
    return Tensor(np.ascontiguousarray(x), device="CPU")


def agree(got, wanted):
    np.testing.assert_allclose(got.numpy(), wanted.detach().numpy(), rtol=1e-5, atol=1e-5)


def draw_lengths(rng, batch, size):
    """A length from 1 to `size` for each row, one of them `size`."""
    found = rng.integers(1, size + 1, batch)
    found[rng.integers(batch)] = size
    return found


def draw_mask(rng, kind, batch, queries, keys):
    """(B or 1, 1, T, S) of 0 and minus infinity, or None. Each query sees a key: PyTorch gives NaN where none is."""
    if kind == "none":
        return None
    if kind == "padding":
        return padding_mask(draw_lengths(rng, batch, keys), keys)  # (B,1,1,S)
    if kind == "causal":
        hidden = np.arange(keys)[None, :] > np.arange(queries)[:, None]  # (T,S)
        return np.where(hidden, -np.inf, 0).astype(np.float32)[None, None]  # (1,1,T,S)
    hidden = rng.random((batch, 1, queries, keys)) < 0.5  # (B,1,T,S)
    np.put_along_axis(hidden, rng.integers(keys, size=(batch, 1, queries, 1)), False, -1)
    return np.where(hidden, -np.inf, 0).astype(np.float32)


def torch_mask(mask, batch, heads, queries, keys):
    """The same mask as PyTorch takes it, one (T,S) for every row and head: (B*H,T,S), True where hidden."""
    if mask is None:
        return None
    hidden = np.isinf(np.broadcast_to(mask, (batch, heads, queries, keys)))
    return torch.from_numpy(hidden.reshape(batch * heads, queries, keys).copy())  # (B*H,T,S)


def hidden_keys(found, size):
    """PyTorch's key_padding_mask: (B,S), True behind each length."""
    return torch.from_numpy(np.arange(size)[None, :] >= found[:, None])


@masks
@given(config=configs(), batch=st.sampled_from([1, 3]), queries=lengths, keys=lengths, seed=seeds)
@few
def test_attention_is_multihead_attention(mask, config, batch, queries, keys, seed):
    rng = np.random.default_rng(seed)
    x, memory = random_input(rng, batch, queries, config.d_model), random_input(rng, batch, keys, config.d_model)
    theirs = randomized(torch.nn.MultiheadAttention(config.d_model, config.heads, batch_first=True), seed)
    attention = carry(theirs, Attention(config, "CPU"))
    mask = draw_mask(rng, mask, batch, queries, keys)
    got = attention(ours(x), *attention.keys_values(ours(memory)), None if mask is None else ours(mask))
    source = torch.from_numpy(memory)
    hidden = torch_mask(mask, batch, config.heads, queries, keys)
    agree(got, theirs(torch.from_numpy(x), source, source, attn_mask=hidden, need_weights=False)[0])


@given(config=configs(), batch=st.sampled_from([1, 3]), length=lengths, seed=seeds)
@few
def test_self_attention_of_the_decoder_is_causal_multihead_attention(config, batch, length, seed):
    x = random_input(np.random.default_rng(seed), batch, length, config.d_model)
    theirs = randomized(torch.nn.MultiheadAttention(config.d_model, config.heads, batch_first=True), seed)
    got = carry(theirs, SelfAttention(config, "CPU")).sequence(ours(x))
    x = torch.from_numpy(x)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(length)
    agree(got, theirs(x, x, x, attn_mask=causal, need_weights=False)[0])


@pytest.mark.parametrize("size", [1, 2, 7])
def test_causal_mask_is_that_of_torch(size):
    wanted = torch.nn.Transformer.generate_square_subsequent_mask(size)
    assert np.array_equal(causal_mask(size, "CPU").numpy(), wanted.numpy())


@given(config=configs(), batch=st.sampled_from([1, 3]), length=lengths, seed=seeds)
@few
def test_feed_forward_is_two_linear_layers(config, batch, length, seed):
    x = random_input(np.random.default_rng(seed), batch, length, config.d_model)
    layer = randomized(torch.nn.TransformerEncoderLayer(**torch_arguments(config)), seed)
    feedforward = FeedForward(config, "CPU")
    weights = renamed(layer.state_dict())
    for name, tensor in parameters(feedforward).items():
        tensor.replace(ours(weights[f"feedforward.{name}"]))
    agree(feedforward(ours(x)), layer.linear2(layer.activation(layer.linear1(torch.from_numpy(x)))))


@pytest.mark.parametrize("epsilon", [1e-9, 1e-6, 1e-5, 1e-3])
@given(
    shape=st.sampled_from([(1, 1), (3, 2), (2, 5, 7), (1, 3, 64), (2, 1, 513)]), spread=st.floats(0.1, 30), seed=seeds
)
@few
def test_layer_norm_is_that_of_torch(epsilon, shape, spread, seed):
    x = random_input(np.random.default_rng(seed), *shape) * np.float32(spread)
    theirs = randomized(torch.nn.LayerNorm(shape[-1], eps=epsilon), seed)
    agree(carry(theirs, LayerNorm(shape[-1], epsilon, "CPU"))(ours(x)), theirs(torch.from_numpy(x)))


@masks
@placements
@given(config=configs(), batch=st.sampled_from([1, 3]), length=lengths, seed=seeds)
@each
def test_encoder_layer_is_that_of_torch(mask, placement, config, batch, length, seed):
    config = replace(config, placement=placement)
    rng = np.random.default_rng(seed)
    x = random_input(rng, batch, length, config.d_model)
    theirs = randomized(torch.nn.TransformerEncoderLayer(**torch_arguments(config)), seed)
    mask = draw_mask(rng, mask, batch, length, length)
    got = carry(theirs, EncoderLayer(config, "CPU"))(ours(x), None if mask is None else ours(mask))
    agree(got, theirs(torch.from_numpy(x), src_mask=torch_mask(mask, batch, config.heads, length, length)))


@masks
@placements
@given(config=configs(), batch=st.sampled_from([1, 3]), target=lengths, source=lengths, seed=seeds)
@each
def test_decoder_layer_is_that_of_torch(mask, placement, config, batch, target, source, seed):
    config = replace(config, placement=placement)
    rng = np.random.default_rng(seed)
    x, memory = random_input(rng, batch, target, config.d_model), random_input(rng, batch, source, config.d_model)
    theirs = randomized(torch.nn.TransformerDecoderLayer(**torch_arguments(config)), seed)
    layer = carry(theirs, DecoderLayer(config, "CPU"))
    mask = draw_mask(rng, mask, batch, target, source)
    keys_values = layer.cross.keys_values(ours(memory))
    got = layer(ours(x), layer.self.sequence, keys_values, None if mask is None else ours(mask))
    wanted = theirs(
        torch.from_numpy(x),
        torch.from_numpy(memory),
        tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(target) == -torch.inf,
        memory_mask=torch_mask(mask, batch, config.heads, target, source),
    )
    agree(got, wanted)


@given(config=configs(layers=2), batch=st.sampled_from([1, 3]), length=lengths, seed=seeds)
@few
def test_encoder_is_that_of_torch(config, batch, length, seed):
    rng = np.random.default_rng(seed)
    x, found = random_input(rng, batch, length, config.d_model), draw_lengths(rng, batch, length)
    layer = torch.nn.TransformerEncoderLayer(**torch_arguments(config))
    norm = torch.nn.LayerNorm(config.d_model, eps=EPSILON)
    theirs = torch.nn.TransformerEncoder(layer, config.encoder_layers, norm, enable_nested_tensor=False)
    encoder = carry(randomized(theirs, seed), Encoder(config, "CPU"))
    got = encoder(ours(x), ours(padding_mask(found, length)))
    agree(got, theirs(torch.from_numpy(x), src_key_padding_mask=hidden_keys(found, length)))


@given(config=configs(layers=2), batch=st.sampled_from([1, 3]), target=lengths, source=lengths, seed=seeds)
@few
def test_decoder_is_that_of_torch(config, batch, target, source, seed):
    rng = np.random.default_rng(seed)
    x, memory = random_input(rng, batch, target, config.d_model), random_input(rng, batch, source, config.d_model)
    found = draw_lengths(rng, batch, source)
    layer = torch.nn.TransformerDecoderLayer(**torch_arguments(config))
    norm = torch.nn.LayerNorm(config.d_model, eps=EPSILON)
    theirs = randomized(torch.nn.TransformerDecoder(layer, config.decoder_layers, norm), seed)
    got = carry(theirs, Decoder(config, "CPU"))(ours(x), ours(memory), ours(padding_mask(found, source)))
    wanted = theirs(
        torch.from_numpy(x),
        torch.from_numpy(memory),
        tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(target) == -torch.inf,
        memory_key_padding_mask=hidden_keys(found, source),
    )
    agree(got, wanted)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@given(config=configs(layers=2), batch=st.sampled_from([1, 3]), target=lengths, source=lengths, seed=seeds)
@few
def test_transformer_is_that_of_torch(config, batch, target, source, seed):
    """`torch.nn.Transformer` between embeddings, positions and output that numpy works out; source rows are padded."""
    rng = np.random.default_rng(seed)
    found = draw_lengths(rng, batch, source)
    ids = rng.integers(0, config.source_vocab, (batch, source)), rng.integers(0, config.target_vocab, (batch, target))
    layers = {"num_encoder_layers": config.encoder_layers, "num_decoder_layers": config.decoder_layers}
    theirs = randomized(torch.nn.Transformer(**torch_arguments(config), **layers), seed)
    outside = {
        "source.weight": random_input(rng, config.source_vocab, config.d_model),
        "target.weight": random_input(rng, config.target_vocab, config.d_model),
        "output.weight": random_input(rng, config.target_vocab, config.d_model) * np.float32(config.d_model**-0.5),
    }
    model = Transformer(config, "CPU", seed=None).load(renamed(theirs.state_dict()) | outside)
    got = model.forward(*(ours(i.astype(np.int32)) for i in ids), ours(padding_mask(found, source)))

    rows = (outside[f"{side}.weight"][i] for side, i in zip(("source", "target"), ids, strict=True))
    table = model._positions.table(max(source, target), config.d_model)  # tests/nn/test_positions.py checks it
    x = [torch.from_numpy(r * np.float32(config.d_model**0.5) + table[: r.shape[1]]) for r in rows]
    hidden = hidden_keys(found, source)
    wanted = theirs(
        *x,
        tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(target) == -torch.inf,
        src_key_padding_mask=hidden,
        memory_key_padding_mask=hidden,
    )
    agree(got, wanted @ torch.from_numpy(outside["output.weight"]).T)
