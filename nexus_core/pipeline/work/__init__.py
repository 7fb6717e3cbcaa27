"""The units of a run, stage by stage: what identifies each, what it does, and what it is expected to take."""
