"""The brain: the scheduler and the worker as state machines that do no input or output."""
