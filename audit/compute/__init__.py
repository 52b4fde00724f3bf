"""One worker and its stages. This package and what it imports decide what a unit computes."""
