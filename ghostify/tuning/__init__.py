"""Building blocks of every tuning: losses, schedule, batch norms, gradient descent."""
