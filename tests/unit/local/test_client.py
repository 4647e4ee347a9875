"""Figures of a process by name and labels; one that is not there is an error, not a zero."""

import pytest

from tandem.local.client import Counters, Sample

COUNTERS = Counters(
    (
        Sample("bytes_total", {"direction": "sent"}, 10.0),
        Sample("bytes_total", {"direction": "received"}, 5.0),
        Sample("other", {}, 1.0),
    )
)


def test_samples_are_summed_over_the_labels_that_were_not_named():
    assert COUNTERS.total("bytes_total", direction="sent") == 10
    assert COUNTERS.total("bytes_total") == 15
    assert COUNTERS.total("bytes_total", direction="none") == 0


def test_an_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="absent"):
        COUNTERS.total("absent")
