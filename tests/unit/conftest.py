"""What all unit tests share."""

import gc

import pytest
from hypothesis import settings

# How long one example takes says how busy the machine is. What needs more examples than these says so itself.
settings.register_profile("patient", deadline=None, max_examples=40)
settings.load_profile("patient")


def pytest_configure() -> None:
    """What imports and collection make stays to the end: to search it for garbage took a tenth of the whole run."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """From here on only what tests make is searched for garbage."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()
