"""Whether this machine can run an audit."""
