"""Savers against models: what is promised for any input."""
