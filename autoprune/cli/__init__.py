"""Words and tables; one file per command; no logic."""
