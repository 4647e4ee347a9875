"""The frozen facts of a model, read from its config.json."""
