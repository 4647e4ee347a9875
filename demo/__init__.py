"""The demo: a small model made on the spot that recites, served disaggregated on this machine."""
