"""G-Ghost stages: which channels are complicated, thin blocks, cheap operation and mix."""
