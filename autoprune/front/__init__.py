"""The Pareto front: pick, report, export, load. Knows nothing of how the points were found."""
