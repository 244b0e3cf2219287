"""Ghost modules, layer after layer: which maps are intrinsic, filters and cheap kernels."""
