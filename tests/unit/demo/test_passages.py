"""The passages and how a test or the demo asks for one."""

from demo.passages import passages, prompt_of, rest_of


def test_there_are_twelve_passages_each_one_line():
    texts = passages()
    assert len(texts) == 12
    assert all("\n" not in text and "  " not in text and text.strip() == text for text in texts)


def test_prompt_and_rest_make_the_passage_and_meet_between_two_words():
    for text in passages():
        assert prompt_of(text) + rest_of(text) == text
        assert rest_of(text).startswith(" ")


def test_no_two_passages_begin_alike_so_a_prompt_has_one_answer():
    beginnings = {" ".join(text.split()[:4]) for text in passages()}
    assert len(beginnings) == len(passages())


def test_some_text_is_beyond_ascii_so_that_streams_meet_split_characters():
    assert any(not rest_of(text).isascii() for text in passages())
