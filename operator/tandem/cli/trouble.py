"""Why a cluster gave no answer, as a problem that says what to do."""

from __future__ import annotations

import aiohttp

from tandem.api.problems import Problem, Refused
from tandem.kube.errors import UNREACHABLE, ApiError

_REACH = "Check that the cluster runs and that the kubeconfig's server is right."


class ClusterTrouble(Refused):
    """The cluster cannot be asked."""


def cluster_trouble(error: ApiError, server: str) -> ClusterTrouble:
    """`error`, an answer of the API server at `server` or its absence."""
    if error.status == UNREACHABLE:
        reason, fix = unreachable(error.__cause__), _REACH
        if isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError):
            fix = "Correct certificate-authority in the kubeconfig."
    elif error.status == 401:
        reason = "the API server does not accept these credentials"
        fix = "Log in again, or correct the user in the kubeconfig."
    elif error.status == 403:
        reason, fix = error.message, "Ask for the right to read these objects, or use another kubeconfig."
    else:
        reason, fix = str(error), "Try again; if it stays, look at the API server."
    return ClusterTrouble([Problem(server, "", reason.rstrip("."), fix)])


def unreachable(cause: BaseException | None) -> str:
    """The reason of a connection that failed."""
    match cause:
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not trusted: {cause.certificate_error}"
        case aiohttp.ClientConnectorSSLError():
            return "it cannot be reached over TLS"
        case aiohttp.ClientConnectorDNSError():
            return "it cannot be reached: its name is not known"
        case aiohttp.ClientConnectorError():
            return f"it cannot be reached: {(cause.os_error.strerror or str(cause.os_error)).lower()}"
        case TimeoutError():
            return "it cannot be reached: no answer in time"
        case aiohttp.ServerDisconnectedError():
            return "it cannot be reached: it ended the connection without an answer"
    return f"it cannot be reached: {cause}"
