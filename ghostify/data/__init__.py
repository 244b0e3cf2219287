"""From files, tensors, data sets and loaders to what a network takes."""
