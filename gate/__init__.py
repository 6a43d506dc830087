"""An INT8 regression gate for production models."""
