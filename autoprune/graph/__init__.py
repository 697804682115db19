"""Tensors, dimension expressions, plans, rewriting. Knows nothing of accuracy, devices or Optuna."""
