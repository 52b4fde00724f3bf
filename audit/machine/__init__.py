"""Settle folders, threads and telemetry of this process before any library is loaded."""
