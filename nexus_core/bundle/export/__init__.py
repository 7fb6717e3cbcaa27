"""What a bundle becomes for tools that know nothing of Nexus: a plain checkpoint, a PEFT adapter, a GGUF file."""
