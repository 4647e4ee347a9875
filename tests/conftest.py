"""Fixtures that every suite may use; the rig starts nothing before a test asks for it."""

pytest_plugins = ["tests.cluster.fixtures"]
