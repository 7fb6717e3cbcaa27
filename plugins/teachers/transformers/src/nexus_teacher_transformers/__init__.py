"""Any decoder that the installed transformers can instantiate, as a Nexus teacher."""
