"""The client: futures for tasks that run on a cluster."""
