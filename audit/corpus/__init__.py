"""Images and prompts from outside: listing, decoding, the manifest, prompt files."""
