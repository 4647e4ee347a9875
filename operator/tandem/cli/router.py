"""`tandem router`: the long-running process of a deployment's router pods."""

from __future__ import annotations

from typing import Any

import click

from tandem.cli.settings import options_from
from tandem.gateway.settings import RouterSettings

DOCUMENTED = {
    "deployment": "Name of the deployment whose workers are served.",
    "namespace": "Namespace of its EndpointSlices (in a cluster).",
    "endpoints_file": "JSON file of its endpoints, read again when it changes (without a cluster).",
    "backend": "Engine of the workers.",
    "mode": "One pool of workers, or prefill and decode apart.",
    "policy": "How requests are spread over workers.",
    "served_model_name": "Name under which clients ask for the model.",
    "host": "Address to listen on.",
    "port": "Port to listen on; 0 takes a free one.",
    "api_key_file": "File with one API key per line, read again when it changes; clients without one get a 401.",
    "max_body_bytes": "Largest body of a request; 413 beyond.",
    "max_held_bytes": "Request bodies of all requests under way together; 503 beyond.",
    "max_answer_bytes": "Largest answer of a worker that is no stream; 502 beyond.",
    "attempts": "Pairs (or workers) tried for one request.",
    "prefill_seconds": "Limit of a prefill leg: queue and prompt.",
    "first_byte_seconds": "Limit until the first event of a stream without hand-off.",
    "decode_first_byte_seconds": "Limit until the first event of a stream whose KV waits at prefill.",
    "idle_seconds": "Limit of silence within a stream.",
    "request_seconds": "Limit of all attempts for one request.",
    "drain_seconds": "After SIGTERM: how long new connections are still taken.",
    "grace_seconds": "After SIGTERM: how long running requests may go on.",
}


@click.command(
    "router",
    short_help="Run the router of one deployment.",
    epilog="Example: tandem router --deployment qwen --namespace ml --backend torch --mode disagg "
    "--served-model-name qwen",
)
@options_from(RouterSettings, documented=DOCUMENTED)
def command(**values: Any) -> None:
    """Serves one OpenAI-compatible address in front of the workers of a deployment. Needs --namespace or
    --endpoints-file."""
    settings = RouterSettings(**values)
    from tandem.gateway.server import run

    run(settings)
