"""Scripts that other programs' interpreters run for a comparison."""
