"""The study: the same student taught in several ways at the same budget, to see what the method is worth."""
