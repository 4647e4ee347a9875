"""What the API server serves and lets us read, found out before any watch starts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tandem.api.base import API_VERSION
from tandem.kube.client import Client
from tandem.kube.clock import Clock
from tandem.kube.errors import ApiError
from tandem.kube.queue import Backoff
from tandem.kube.resources import OWN_KINDS, WATCHED_KINDS, selector_for

logger = logging.getLogger(__name__)

Scope = tuple[str | None, ...]
"""The namespaces to work in; `(None,)` means all of them."""

BACKOFF = Backoff(base=1.0, longest=30.0, jitter=0.0)


async def obstacle(client: Client, scope: Scope) -> str:
    """What keeps the operator from working on this cluster, with what to do about it; empty when nothing does."""
    try:
        missing = await _missing_kinds(client)
        if missing:
            return (
                f"the cluster does not know {', '.join(missing)} ({API_VERSION}): install the "
                "CustomResourceDefinitions with `tandem crds | kubectl apply --server-side -f -`, or set the chart's "
                "crds.enabled=true"
            )
        for resource in WATCHED_KINDS:
            for namespace in scope:
                selector = selector_for(resource)
                found = await client.list(resource, namespace, label_selector=selector, limit=1, first_page=True)
                await client.try_watch(
                    resource, namespace, resource_version=found.resource_version, label_selector=selector
                )
    except ApiError as error:
        if error.status == 403:
            return f"{error.message}: bind the Role or ClusterRole of the chart to the operator's ServiceAccount"
        return str(error)
    return ""


async def wait_until_usable(client: Client, scope: Scope, clock: Clock, tell: Callable[[str], None]) -> None:
    """Returns when nothing keeps the operator from working; logs each reason once, `tell`s each time."""
    failures, told = 0, ""
    while found := await obstacle(client, scope):
        if found != told:
            logger.warning("waiting: %s", found)
            told = found
        tell(found)
        failures += 1
        await clock.sleep(BACKOFF.delay(failures, 0.0))
    tell("")


async def _missing_kinds(client: Client) -> list[str]:
    try:
        served = {resource["kind"] for resource in (await client.get_path(f"/apis/{API_VERSION}"))["resources"]}
    except ApiError as error:
        if not error.is_not_found:
            raise
        served = set()
    return [resource.kind for resource in OWN_KINDS if resource.kind not in served]
