"""Conformance kits for people who extend autoprune."""
