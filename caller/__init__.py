"""The service in cluster 1: calls the producer and explains what happened, through a page, an API and a CLI."""
