"""The worker process: runs tasks, holds and serves their results."""
