"""Learning what one device's kernels cost from nets timed on it, and predicting by that."""
