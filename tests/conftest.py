"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: nothing timed decides a test.
settings.register_profile("edgefl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgefl")
