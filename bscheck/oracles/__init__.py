"""Oracles: independent computations of the truth, which never run the code under test."""
