"""Tokens to text one by one, and stop strings in it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from tandem_serve.engine.detokenizer import IncrementalDetokenizer
from tandem_serve.engine.loader import LoadedModel
from tandem_serve.engine.stop import StopChecker
from tandem_serve.engine.text import TextCodec
from tests.unit.serve import tiny

LETTERS = st.text(alphabet="ab<é", max_size=12)


def stream(decode, prompt: list[int], ids: list[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(decode, prompt)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, tiny.VOCABULARY - 1), max_size=40), st.lists(st.integers(2, 319), max_size=9))
def test_pieces_join_to_the_text_of_all_tokens(llama: LoadedModel, ids: list[int], prompt: list[int]) -> None:
    decode = TextCodec(llama.tokenizer, vocab_size=tiny.VOCABULARY).decoder()
    joined = decode(prompt) + "".join(stream(decode, prompt, ids))
    if not decode(prompt).endswith("\ufffd"):
        assert joined == decode(prompt + ids)


def test_a_character_split_over_tokens_comes_out_whole(llama: LoadedModel) -> None:
    codec = TextCodec(llama.tokenizer, vocab_size=tiny.VOCABULARY)
    text = "né 日本 🙂!"
    pieces = stream(codec.decoder(), [], list(codec.encode(text)))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_words_keep_their_space_with_a_tokenizer_that_strips_the_first() -> None:
    vocabulary = {"▁Hello": 0, "▁world": 1, "!": 2, "<s>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>"])
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=True)  # noqa: E731
    assert "".join(stream(decode, [0], [1, 2, 1])) == " world! world"
    assert "".join(stream(decode, [], [0, 3, 1])) == "Hello world"


def test_the_cost_of_a_token_does_not_grow_with_the_text() -> None:
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return "x" * len(ids)

    stream(decode, [1] * 500, [1] * 500)
    assert longest < 20


def feed(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, str | None]:
    checker, out = StopChecker(stops), ""
    for piece in pieces:
        text, found = checker.push(piece)
        out += text
        if found is not None:
            return out, found
    return out + checker.flush(), None


@given(st.lists(LETTERS, max_size=12), st.lists(LETTERS.filter(bool), min_size=1, max_size=3))
def test_what_comes_out_is_the_text_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    places = [text.find(stop) for stop in stops if stop in text]
    out, found = feed(tuple(stops), pieces)
    if places:
        assert found is not None
        assert stops.count(found)
        # Streaming decides at the piece that completes a stop string; one that begins earlier may complete later.
        assert text.startswith(out + found)
        assert min(places) <= len(out)
    else:
        assert (out, found) == (text, None)


def test_a_beginning_of_a_stop_string_is_held_back_until_it_is_settled() -> None:
    checker = StopChecker(("###",))
    assert checker.push("a#") == ("a", None)
    assert checker.push("#") == ("", None)
    assert checker.push("b") == ("##b", None)
    assert checker.push("##") == ("", None)
    assert checker.flush() == "##"
