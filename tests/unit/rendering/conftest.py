"""The shipped library, loaded once."""

import pytest

from tandem.rendering.library import Library, load_library


@pytest.fixture(scope="session")
def library() -> Library:
    return load_library()
