"""Numbers that are finite, ranked and drawn alike on every machine."""
