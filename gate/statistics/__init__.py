"""Paired non-inferiority statistics: pure numpy and scipy, importable on their own."""
