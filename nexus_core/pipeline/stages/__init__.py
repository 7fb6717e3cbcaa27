"""What each stage does, one module each: `nexus run` and the command of that stage call the same functions."""
