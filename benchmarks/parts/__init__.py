"""What the questions share: rows, timing, the correctness gate, models, and the peers."""
