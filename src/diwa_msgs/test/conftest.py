"""Settings of the tests of this package."""

from hypothesis import settings

# A busy machine is not a failure; how fast things are is measured elsewhere.
settings.register_profile("diwa", deadline=None)
settings.load_profile("diwa")
