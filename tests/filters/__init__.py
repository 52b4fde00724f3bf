"""Tests of the filters that block prompts and pictures."""
