"""Pictures and prompts from outside: list, decode and hash them, and keep what cannot be used with its reason."""
