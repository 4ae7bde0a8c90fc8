"""Checks of every step before a call, and of the objects in the cluster."""
