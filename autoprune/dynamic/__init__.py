"""Networks that do less for easy inputs: gates around residual branches and on channels. Knows nothing of search."""
