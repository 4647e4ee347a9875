"""The HTTP side of the server: routes, limits of requests, errors, streams."""
