"""The bundled torch server."""
