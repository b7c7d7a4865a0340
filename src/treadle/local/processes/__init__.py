"""Worker processes that keep results where they were made."""
