"""What all unit tests share."""

from hypothesis import settings

# How long one example takes says how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
