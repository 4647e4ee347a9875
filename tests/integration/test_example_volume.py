"""The example of a volume fits the example that uses it, and a real cluster binds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tandem.api.load import load_deployment
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
VOLUME = EXAMPLES / "volume" / "demo.yaml"


def test_the_claim_of_the_demo_is_bound_to_the_volume(control_plane: ControlPlane, namespace: str) -> None:
    volume, claim = yaml.safe_load_all(VOLUME.read_text())
    name = volume["metadata"]["name"]
    source = load_deployment(EXAMPLES / "demo-agg.yaml").spec.model.pvc
    assert source is not None
    assert source.claim_name == claim["metadata"]["name"]

    control_plane.kubectl("apply", "--namespace", namespace, "--filename", str(VOLUME))
    try:
        bound = "--for=jsonpath={.status.phase}=Bound"
        control_plane.kubectl("wait", bound, f"pvc/{source.claim_name}", "--namespace", namespace, "--timeout=30s")
        assert control_plane.get("pv", name)["spec"]["claimRef"]["namespace"] == namespace
    finally:
        control_plane.kubectl("delete", "pv", name, "--wait=false")
