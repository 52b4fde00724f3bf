"""The journal as tables: fold, query, check."""
