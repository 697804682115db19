"""Where model, data and metric come from."""
