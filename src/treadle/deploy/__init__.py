"""Clusters that are started from Python."""
