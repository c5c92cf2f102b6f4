"""Whether a form of a model is still the trained model."""
