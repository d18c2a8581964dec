"""Processes and folders of a running server: the SuperLink, the run on it and what it leaves on the disk."""
