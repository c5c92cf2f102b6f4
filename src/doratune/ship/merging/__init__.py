"""Base and adapter become one checkpoint."""
