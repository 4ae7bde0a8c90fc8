"""Runs: many calls at a rate, with statistics and outages."""
