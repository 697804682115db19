"""Space, sampler, candidate pipeline and study."""
