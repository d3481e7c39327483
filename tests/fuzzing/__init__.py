"""Coverage-guided fuzzing of what reads files that somebody else made; see `tests/fuzzing/run.py`."""
