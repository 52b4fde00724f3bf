"""One file per stage of a run: retries, slots, artifacts and progress around the plain functions of `audit`."""
