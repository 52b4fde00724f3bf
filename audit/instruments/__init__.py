"""Pictures in, scores or numbers out: detectors, quality instruments, distances between sets."""
