"""Small real teachers, the recipes that made them, and a registry fragment that lists them."""
