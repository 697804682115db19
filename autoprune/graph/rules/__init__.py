"""Typing rules, one small function per operator family."""
