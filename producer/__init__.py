"""The service in cluster 2: echoes messages with its identity, and injects faults on request."""
