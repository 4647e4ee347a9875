"""An admission webhook of somebody else, on loopback: it may change or refuse what is written."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane
from tests.integration.controller.api import Api, Object

Review = Callable[[Object], list[Object] | str]
"""From an object to JSON patches, or to the reason why it is refused."""
PATH = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


@contextmanager
def webhook(
    plane: ControlPlane, api: Api, folder: Path, *, namespace: str, resources: dict[str, str], review: Review
) -> Iterator[None]:
    """Asks `review` about each write of `resources` (plural: API group) in a namespace, for as long as it lasts."""
    plane.authority.server("webhook", ["127.0.0.1"]).write(folder, "webhook")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(review))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "webhook.crt", folder / "webhook.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    name = f"of-{namespace}"
    hook = {
        "name": "hook.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": 5,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "clientConfig": {
            "url": f"https://127.0.0.1:{server.server_port}/",
            "caBundle": base64.b64encode(plane.authority.pair.certificate).decode(),
        },
        "rules": [
            {"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [plural]}
            for plural, group in resources.items()
        ],
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    api.request("POST", PATH, {**kind, "metadata": {"name": name}, "webhooks": [hook]})
    try:
        yield
    finally:
        api.request("DELETE", f"{PATH}/{name}")
        server.shutdown()
        server.server_close()
        thread.join(timeout=20)


def _handler(review: Review) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
            answer: dict[str, Any] = {"uid": request["uid"], "allowed": True}
            found = review(request["object"])
            if isinstance(found, str):
                answer |= {"allowed": False, "status": {"message": found}}
            elif found:
                patch = base64.b64encode(json.dumps(found).encode()).decode()
                answer |= {"patchType": "JSONPatch", "patch": patch}
            body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
