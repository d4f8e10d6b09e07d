"""Smaller weights: fewer bits, fewer numbers, smaller factors, and what they do to the features."""
