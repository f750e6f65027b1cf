"""Config and Generation: strict JSON both ways."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitx.config import CHOICES, PRESETS, Config, Generation, choice, pick, preset
from minitx.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_goes_to_json_and_back(name):
    config = preset(name)
    assert Config.from_json(config.to_json()) == config


def test_presets_are_those_of_the_paper():
    base, big = preset("transformer-base"), preset("transformer-big")
    assert (base.d_model, base.heads, base.d_ff, base.encoder_layers, base.decoder_layers) == (512, 8, 2048, 6, 6)
    assert (big.d_model, big.heads, big.d_ff, big.encoder_layers, big.decoder_layers) == (1024, 16, 4096, 6, 6)
    assert (base.placement, base.activation, base.positions, base.tying) == ("post", "relu", "sinusoidal", "all")


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("tiny").heads = 2


@pytest.mark.parametrize("field", [f for f in CHOICES if f != "length_penalty"])
def test_a_value_outside_its_table_is_refused_with_the_valid_ones(field):
    with pytest.raises(ConfigError) as error:
        preset("tiny", **{field: "nonsense"})
    assert field in str(error.value) and "nonsense" in str(error.value)
    assert str(error.value).endswith(", ".join(Config_table(field)))


def Config_table(field):  # noqa: N802
    module, table = CHOICES[field].split(":")
    return getattr(__import__(f"minitx.{module}", fromlist=[table]), table)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 5}, "heads must divide d_model"),
        ({"heads": 0}, "heads must be from 1"),
        ({"heads": -4}, "heads must be from 1"),
        ({"heads": 4.0}, "heads must be int"),
        ({"heads": True}, "heads must be int"),
        ({"heads": None}, "heads must be int"),
        ({"d_ff": 1 << 40}, "d_ff must be from 1"),
        ({"norm_epsilon": "1e-6"}, "norm_epsilon must be float"),
        ({"norm_epsilon": 10**400}, "norm_epsilon must be from"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon must be from"),
        ({"final_norm": 1}, "final_norm must be bool"),
        ({"activation": ["relu"]}, "activation must be str"),
        ({"target_vocab": 7}, "shares one embedding"),
        ({"d_model": 35, "heads": 5}, "even d_model"),
        ({"colour": "red"}, "'colour' is not known; choose one of: source_vocab"),
    ],
)
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        preset("tiny", **changes)


def test_unknown_and_missing_fields_are_named():
    fields = preset("tiny").to_dict()
    with pytest.raises(ConfigError, match="unknown field 'headz'; the fields are source_vocab"):
        Config.from_dict({**fields, "headz": 4})
    del fields["heads"], fields["mixer"]
    with pytest.raises(ConfigError, match="missing field heads, mixer"):
        Config.from_dict(fields)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}", "[" * 100_000, '{"heads": NaN}'])
def test_what_is_not_a_config_is_one_clear_error(text):
    with pytest.raises(ConfigError) as error:
        Config.from_json(text)
    assert "\n" not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([f.name for f in dataclasses.fields(Config)]), json_values)
def test_any_json_in_any_field_is_taken_whole_or_refused(field, value):
    fields = {**preset("tiny").to_dict(), field: value}
    try:
        config = Config.from_json(json.dumps(fields))
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert config.to_dict()[field] == value


def test_generation_is_as_strict():
    generation = Generation(start=-1, end=0, suppress=(1,))
    assert Generation.from_json(generation.to_json()) == generation
    for changes in (
        {"suppress": [1, "2"]},
        {"suppress": 1},
        {"beam": 0},
        {"alpha": -1.0},
        {"length_penalty": "x"},
        {"suppress": [0]},
    ):
        with pytest.raises(ConfigError):
            Generation.from_dict({**generation.to_dict(), **changes})


def test_pick_and_choice_find_rows():
    assert pick({"a": 1}, "a", "letter") == 1
    with pytest.raises(ConfigError, match="letter 'b' is not known; choose one of: a"):
        pick({"a": 1}, "b", "letter")
    assert callable(choice("activation", "relu"))
