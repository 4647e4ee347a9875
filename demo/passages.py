"""The passages that the demo's model learns by heart; whole texts are the expected answers of demo and tests."""

from __future__ import annotations

from pathlib import Path

PASSAGES_FILE = Path(__file__).with_name("passages.txt")
PROMPT_WORDS = 14


def passages() -> tuple[str, ...]:
    """All passages, each as one line; in the file they are wrapped and separated by blank lines."""
    paragraphs = PASSAGES_FILE.read_text(encoding="utf-8").split("\n\n")
    return tuple(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def prompt_of(passage: str) -> str:
    """The beginning of a passage that is enough for the model to continue it; ends at the end of a word."""
    return " ".join(passage.split(" ")[:PROMPT_WORDS])


def rest_of(passage: str) -> str:
    """What greedy decoding answers to `prompt_of(passage)`, from the leading space to the full stop."""
    return passage[len(prompt_of(passage)) :]
