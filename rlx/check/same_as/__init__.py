"""Tests whether two algorithms, losses or advantages are the same function, in float64."""
