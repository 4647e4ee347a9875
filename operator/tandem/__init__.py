"""Tandem: a Kubernetes operator for LLM deployments."""
