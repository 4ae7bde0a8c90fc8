"""The service in cluster 2: echoes what it gets, says who it is, and fails on request."""
