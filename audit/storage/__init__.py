"""Bytes at an address: objects on disk and in S3, what their errors mean, the journal and its unit files."""
