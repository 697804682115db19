"""The doors for other people's search loops."""
