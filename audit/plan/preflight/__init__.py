"""Check a spec's inputs before anything is computed: prompts, guards, embeddings, personalisations, pictures."""
