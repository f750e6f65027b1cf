"""Sentences are those that a reader would see; long ones are cut so that each part fits; nothing is lost."""

# ruff: noqa: RUF001 (full-width characters are what is tested)

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minitx.text.split import fit, sentences

# Sentences are separated by "|", which stands for no character.
EXAMPLES = """
Hello. |How are you?
Mr. Smith went to Washington. |He met Dr. Who.
Mrs. Jones and Ms. Lee left. |Prof. Dr. Braun stayed.
J. K. Rowling wrote it. |It sold well.
George W. Bush spoke. |J. A. Silva did not.
He lives in the U.S. |He works there.
The U.S. President spoke. |Nobody heard it.
We met at 5 p.m. |The room was full.
We met at 5 p.m. Friday. |It rained.
Pi is about 3.14. |Euler's number is 2.718.
It costs $1,000.50 today. |Tomorrow it will not.
Use version v1.2.3. |It is newer than 1.2.2.
Open foo.txt is what it said. |Then it stopped.
See https://example.com/a.b?c=d. |It is there.
Visit www.example.com. |Then come back.
Write to me@example.com. |I will answer.
Wait... |What?! |Yes!
Well... maybe not. |Or so.
Hmm . . . yes. |Perhaps.
He said "Hi." |Then he left.
"Why?" he asked. |"Because!" she said.
(See the map.) |It is old.
He left (too early.) |She stayed.
**Bold.** |Plain.
1. First item. |2. Second item.
1.2. A section. |Its text.
A. Apples. |B. Bananas.
iv. The fourth. |It is long.
See fig. 3. |Fig. 4 is like it.
It is no. 5 of 7. |He said no. |Then he left.
Compare e.g. Paris, i.e. the city. |It is big.
Apples, pears, etc. are fruit. |Bring pears, apples, etc. |We eat them.
Acme Inc. Products are bad. |She works at Acme Inc. |The pay is good.
Cats vs. Dogs is a film. |I saw it.
It was on Jan. 5. |It was cold.
Two years ago. |He went out. |Paris is far.
Smith et al. Proved it. |They did.
Yahoo! is a company. |It was.
Born in 1999. |Died in 2050.
O Sr. Silva e a Dra. Ana saíram. |Eles voltaram.
A Sra. Souza mora na Av. Paulista. |É longe.
O Prof. Dr. Lima falou. |Todos ouviram.
Veja a pág. 12. |Leia o art. 5 da lei.
Frutas, p.ex. Maçãs, são boas. |Coma!
Custa R$ 3,50. |É caro? |Não.
No séc. XX tudo mudou. |E agora?
Olá! |Tudo bem? |Sim, e você?
«Bonjour.» |M. Dupont et Mme. Durand sont là.
¿Qué tal? |¡Muy bien! |El Sr. Gómez no vino.
Er kam z.B. Montag nicht. |Hr. Braun auch nicht.
Привет. |Как дела?
你好。|我是谁？|真的！
「はい。」と彼は言った。|終わり。
「はい。」|「いいえ。」
これは３．５ではない。|次。
नमस्ते। |आप कैसे हैं?
مرحبا؟ |نعم.
No full stop at the end
one two three. four five
""".strip().splitlines()


@pytest.mark.parametrize("line", EXAMPLES)
def test_sentences_are_those_that_a_reader_sees(line: str) -> None:
    pairs = sentences(line.replace("|", ""))
    assert [sentence + space for sentence, space in pairs] == line.split("|")


def test_white_space_is_given_back_apart() -> None:
    assert sentences("") == []
    assert sentences(" \n ") == [("", " \n ")]
    assert sentences("  One. \t Two.\n") == [("", "  "), ("One.", " \t "), ("Two.", "\n")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \n\t", "\u2028", "\x85", "\f"])
def test_a_line_end_ends_a_sentence(end: str) -> None:
    assert sentences(f"A title{end}and a line") == [("A title", end), ("and a line", "")]


ANY = st.one_of(
    st.text(max_size=80),
    st.text("ab.!?\u2026 \n\"')(A1,。」「\u0301\u200d", max_size=80),
    st.lists(
        st.sampled_from(["Mr.", "a", "B.", "3.14", "etc.", "。", "?!", "\n", " ", "“x.”", "U.S."]), max_size=30
    ).map(" ".join),
)


@given(ANY)
@settings(max_examples=300, deadline=None)
def test_sentences_joined_are_the_text(text: str) -> None:
    pairs = sentences(text)
    assert "".join(sentence + space for sentence, space in pairs) == text
    assert all(sentence == sentence.strip() and not space.strip() for sentence, space in pairs)
    assert all(sentence for sentence, _ in pairs[1:])


@given(ANY, st.integers(0, 20), st.sampled_from(["characters", "words", "bytes"]))
@example("a" * 3000, 7, "characters")
@example("e\u0301" * 30, 1, "characters")
@settings(max_examples=300, deadline=None)
def test_parts_fit_and_joined_are_the_sentence(text: str, limit: int, unit: str) -> None:
    measures = {"characters": len, "words": lambda s: len(s.split()), "bytes": lambda s: len(s.encode())}

    def fits(part: str) -> bool:
        return measures[unit](part) <= limit

    pairs = fit(text, fits)
    assert "".join(part + space for part, space in pairs) == text
    assert all(fits(part) or len(part) == 1 for part, _ in pairs)
    assert all(part == part.strip() and not space.strip() for part, space in pairs)


@given(st.text("ab, ", max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_it_ends_whatever_fits_says(text: str, generator: object) -> None:
    pairs = fit(text, lambda part: generator.random() < 0.5)  # type: ignore[attr-defined]
    assert "".join(part + space for part, space in pairs) == text


@pytest.mark.parametrize(
    ("text", "limit", "parts"),
    [
        ("it fits", 10, ["it fits"]),
        ("one two, three four five", 16, ["one two,", "three four five"]),
        ("a, bcdefg hijklm nop", 12, ["a, bcdefg", "hijklm nop"]),
        ("one two   three", 9, ["one two", "three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("一二三，四五六七八", 6, ["一二三，", "四五六七八"]),
        ("e\u0301e\u0301e\u0301", 3, ["e\u0301", "e\u0301", "e\u0301"]),
        ("👍🏽👍🏽", 3, ["👍🏽", "👍🏽"]),
        ("👩‍👧👩‍👧", 5, ["👩‍👧", "👩‍👧"]),
        ("well (so it is) and more", 18, ["well (so it is)", "and more"]),
    ],
)
def test_it_is_cut_where_it_hurts_least(text: str, limit: int, parts: list[str]) -> None:
    assert [part for part, _ in fit(text, lambda part: len(part) <= limit)] == parts


def test_long_texts_take_little_time_and_few_calls() -> None:
    for text in [
        "." * 200_000,
        "a. " * 60_000,
        "。" * 200_000,
        '"' * 200_000,
        "a.)" * 60_000,
        "\u0301" * 100_000,
        " \n" * 99_999,
    ]:
        calls = 0

        def fits(part: str) -> bool:
            nonlocal calls
            calls += 1
            return len(part) < 500

        start = time.perf_counter()
        sentences(text)
        parts = fit(text, fits)
        assert time.perf_counter() - start < 5  # 0.6 s at most is usual; quadratic would be hours
        assert calls <= 14 * len(parts)
