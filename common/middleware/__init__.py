"""Pure ASGI middleware, one class a file. `common.service` has the order."""

EXEMPT_PATHS = frozenset(("/actuator/health/liveness", "/actuator/health/readiness", "/metrics"))
"""Probes and scrapes: not logged, not counted, not traced, and never refused under load."""
