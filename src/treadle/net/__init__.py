"""Connections between processes. They know no tasks."""
