"""Pictures and prompts from outside: list, decode and hash them, and keep each that cannot be used with the reason."""
