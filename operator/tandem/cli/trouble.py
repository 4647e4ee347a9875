"""Why a cluster gave no answer, as a problem that says what to do."""

from __future__ import annotations

import aiohttp

from tandem.api.problems import Problem, Refused
from tandem.kube.errors import UNREACHABLE, ApiError


class ClusterTrouble(Refused):
    """The cluster cannot be asked."""


def cluster_trouble(error: ApiError, server: str) -> ClusterTrouble:
    """`error`, an answer of the API server at `server` or its absence."""
    if error.status == UNREACHABLE:
        reason, fix = _unreachable(error.__cause__)
    elif error.status == 401:
        reason = "the API server does not accept these credentials"
        fix = "Log in again, or correct the user in the kubeconfig."
    elif error.status == 403:
        reason, fix = error.message, "Ask for the right to read these objects, or use another kubeconfig."
    else:
        reason, fix = str(error), "Try again; if it stays, look at the API server."
    return ClusterTrouble([Problem(server, "", reason.rstrip("."), fix)])


def _unreachable(cause: BaseException | None) -> tuple[str, str]:
    """Reason and fix of a connection that failed."""
    reach = "Check that the cluster runs and that the kubeconfig's server is right."
    match cause:
        case aiohttp.ClientConnectorCertificateError():
            reason = f"its certificate is not trusted: {cause.certificate_error}"
            return reason, "Correct certificate-authority in the kubeconfig."
        case aiohttp.ClientConnectorSSLError():
            return "it cannot be reached over TLS", reach
        case aiohttp.ClientConnectorDNSError():
            return "it cannot be reached: its name is not known", reach
        case aiohttp.ClientConnectorError():
            return f"it cannot be reached: {(cause.os_error.strerror or str(cause.os_error)).lower()}", reach
        case TimeoutError():
            return "it cannot be reached: no answer in time", reach
        case aiohttp.ServerDisconnectedError():
            return "it cannot be reached: it ended the connection without an answer", reach
    return f"it cannot be reached: {cause}", reach
