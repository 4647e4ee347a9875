"""The patterns of texts in resources, each with the words in which its violation is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that pydantic and the API server read alike; `says` what it asks for, `example` obeys it."""

    regex: str
    says: str
    example: str

    def correction(self, text: str) -> str | None:
        """A small change of `text` that obeys the pattern, if there is one."""
        return next((found for found in _changes(text) if re.search(self.regex, found)), None)

    def advice(self, text: str) -> tuple[str, str]:
        """Reason and fix for `text`, which does not obey."""
        corrected = self.correction(text)
        return self.says, f"Did you mean {corrected}?" if corrected else f"Write it like {self.example}."


def _changes(text: str) -> Iterator[str]:
    stripped = text.strip().strip("/")
    yield stripped
    yield stripped.replace("//", "/").removeprefix("./")
    yield re.sub(r"[\s_]+", "-", stripped).lower()
    without_scheme = re.sub(r"^(https?://|hf:(//)?)", "", stripped)
    yield without_scheme
    # The address of a page of a hub's repository.
    yield re.sub(r"/(tree|blob|resolve)/.*", "", without_scheme).partition("/")[2]


# RFC 1123 names as the API server writes them; lengths are bounded so that CEL cost estimates stay small.
DNS_LABEL = Pattern(
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
    "a name here is of a-z, 0-9 and -, with a letter or digit at both ends",
    "qwen-7b",
)
DNS_NAME = Pattern(
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    "a name here is of a-z, 0-9, - and ., with a letter or digit at both ends",
    "qwen-7b",
)
DATA_KEY = Pattern(r"^[-._a-zA-Z0-9]+$", "a key here is of letters, digits, -, _ and .", "config.json")
REPOSITORY = Pattern(
    r"^[A-Za-z0-9][-._A-Za-z0-9]*(/[A-Za-z0-9][-._A-Za-z0-9]*)?$",
    "a repository is NAME or OWNER/NAME, of letters, digits, -, _ and .",
    "Qwen/Qwen2.5-1.5B-Instruct",
)
HUB_REVISION = Pattern(
    r"^[A-Za-z0-9][-._/A-Za-z0-9]*$", "a revision is a branch, a tag or a commit, without spaces", "main"
)
VOLUME_PATH = Pattern(
    r"^([A-Za-z0-9_@+=,:-][-._A-Za-z0-9@+=,:]*(/[A-Za-z0-9_@+=,:-][-._A-Za-z0-9@+=,:]*)*)?$",
    "a path inside the volume has no / at its ends, no spaces, and no part that begins with a dot",
    "qwen/qwen2.5-1.5b",
)
MODEL_NAME = Pattern(
    r"^[A-Za-z0-9][-._:/A-Za-z0-9]*$",
    "a model name is of letters, digits and - . _ : /, with a letter or digit first",
    "qwen2.5-1.5b",
)
VERSION = Pattern(
    r"^[A-Za-z0-9][-+._A-Za-z0-9]*$",
    "a version is of letters, digits and - + . _, with a letter or digit first",
    "0.33.0",
)
IMAGE = Pattern(
    r"^[A-Za-z0-9][-._/:@A-Za-z0-9]*$",
    "an image is REGISTRY/NAME:TAG or NAME@DIGEST, without spaces and without https://",
    "registry.example.com/ai/tandem-server:0.1.0",
)
WORD = Pattern(
    r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$", "one word is needed, of letters, digits and _ . : -, without spaces", "auto"
)
FILE_PATH = Pattern(
    r"^[^\x00-\x1f]+$", "a path has no line breaks, tabs or other control characters", "checkpoints/last"
)
CONTEXT_LENGTH = Pattern(
    r"^[1-9][0-9]*[kKmM]?$", "a context length is a whole number of tokens, with k or m behind it or not", "128k"
)
BASE_URL = Pattern(
    r"^https?://[^\s@]+$",
    "an address begins with http:// or https:// and has no spaces and no user name in it",
    "https://api.example.com/v1",
)

ALL = (
    *(DNS_LABEL, DNS_NAME, DATA_KEY, REPOSITORY, HUB_REVISION, VOLUME_PATH, MODEL_NAME, VERSION, IMAGE, WORD),
    *(FILE_PATH, CONTEXT_LENGTH, BASE_URL),
)
