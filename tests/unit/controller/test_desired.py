"""What a build becomes in the operator."""

from __future__ import annotations

from tests.unit.controller.world import World


def test_a_field_that_no_pod_has_is_a_warning_for_the_api_server_may_be_newer():
    template = {"spec": {"nodeSelecter": {"disk": "ssd"}}}

    rendered = World(mode="agg", roles={"agg": {"podTemplate": template}}).rendered

    (warning,) = rendered.warnings
    assert warning.startswith("spec.roles.agg.podTemplate.spec.nodeSelecter: ")
    assert warning.endswith("Did you mean nodeSelector?")
    assert any(b'"nodeSelecter"' in desired.body for desired in rendered.objects)
