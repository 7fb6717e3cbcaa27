"""Capability pack `math`: expressions, equations, percentages, units, rates, and GSM8K."""
