"""An s for each layer: what the output feels of its errors, and the best choice within MACs."""
