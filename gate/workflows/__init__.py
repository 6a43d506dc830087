"""GitHub workflows that run the gate: what writes them, and what checks those that are there."""
