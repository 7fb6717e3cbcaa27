"""How each zoo teacher was made: one YAML per teacher, one trainer for all of them."""
