"""Attacks: the ways into a model that have to be searched for or read, one file each.

An attack unit learns an embedding, searches for prompts, or reads what an attacker brings. Its answer enters the prompts of
generate units. Text prompts and inverted latents need no unit of this kind.
"""
