"""One module for each page: a function of a context and a query that returns what its template shows."""
