"""An s for each layer or a ratio for each stage: what costs the output least within some MACs."""
