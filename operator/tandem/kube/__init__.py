"""Everything that talks to a Kubernetes API server; the only place that imports Kopf or the `kubernetes` package."""
