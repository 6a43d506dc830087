"""Bundled real data and small trained models, so that the gate runs on a fresh machine."""
