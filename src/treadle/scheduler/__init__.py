"""The scheduler process: feeds the core with messages and sends what the core returns."""
