"""What this process may use of its machine: folders, cores, telemetry, settled before any library is loaded."""
