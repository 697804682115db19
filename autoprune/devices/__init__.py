"""What a device is, and how long a model takes on it: measured, calibrated or predicted."""
