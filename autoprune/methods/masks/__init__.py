"""Masks on single weights: scores, patterns, and the parametrisations that hold them. They change size, not latency."""
