"""From a resource to running objects and back: observe, build, plan, apply, status."""
