"""What pages about units share, be they neurons, heads, directions or latents."""
