"""Store bytes at an address, on disk or in S3: objects, their errors in plain sentences, the journal and its unit files."""
