"""Parameters, rules, mapping and templates: what a worker is started with. Knows nothing of Kubernetes."""
