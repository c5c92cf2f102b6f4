"""The run folder: the schema of every file in it, atomic writes, digests, and what is up to date."""
