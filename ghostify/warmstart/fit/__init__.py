"""Ridge least squares, and the sums that all of it is made of."""
