"""What runs the pipeline more than once, or reads its records."""
