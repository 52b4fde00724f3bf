"""What one worker does with one unit, by kind: erase, invert, generate, detect."""
