"""References in commands and variables, as in the Kubernetes documentation of `$(VAR)`."""

import pytest

from tandem.local.expand import expand

VARIABLES = {"POD_IP": "127.0.0.1", "EMPTY": "", "A": "$(POD_IP)"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$(POD_IP)", "127.0.0.1"),
        ("http://$(POD_IP):80", "http://127.0.0.1:80"),
        ("$(POD_IP)$(POD_IP)", "127.0.0.1127.0.0.1"),
        ("$(EMPTY)", ""),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(POD_IP)", "$(POD_IP)"),
        ("$$$(POD_IP)", "$127.0.0.1"),
        ("$$$$", "$$"),
        ("costs $5", "costs $5"),
        ("$", "$"),
        ("$(", "$("),
        ("$POD_IP", "$POD_IP"),
        ("$()", "$()"),
        ("$(A)", "$(POD_IP)"),  # a value is not expanded a second time
    ],
)
def test_references_are_expanded_as_the_kubelet_does(text, expected):
    assert expand(text, VARIABLES) == expected
