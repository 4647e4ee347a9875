"""The labels by which one part of Tandem finds what another has made."""

from __future__ import annotations

from tandem.api.base import API_GROUP

DEPLOYMENT = f"{API_GROUP}/deployment"
"""Name of the ModelDeployment that an object belongs to."""
ROLE = f"{API_GROUP}/role"
"""prefill, decode or agg; on what belongs to workers only."""
REVISION = f"{API_GROUP}/revision"
"""The revision of workers: only equal ones are paired."""
BLUEPRINT = f"{API_GROUP}/blueprint"
"""Annotation of pods that read a model's files: NAME/UID of the ModelBlueprint, for a job's artifact NAME/UID.HASH."""
