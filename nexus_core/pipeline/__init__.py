"""Stages in their order: what goes from one to the next, and what goes back."""
