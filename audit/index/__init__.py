"""The index: fold the journal into DuckDB tables, query them, and check the whole of a run."""
