"""What can be seen of a run: a progress bar while it goes on, a profile and a timeline afterwards."""
