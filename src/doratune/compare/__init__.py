"""The A/B: the same data and steps for every arm, and what can be said of the differences."""
