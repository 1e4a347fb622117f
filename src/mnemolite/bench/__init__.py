"""Benchmarks: how fast searches and models are, on the user's own machine and data."""
