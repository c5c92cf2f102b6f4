"""What doratune costs: one file per question, one runner."""
