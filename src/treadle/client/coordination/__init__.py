"""Locks, semaphores, events, queues and variables that all processes of a cluster share."""
