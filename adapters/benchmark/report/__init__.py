"""Reports: the one document system, and the benchmark's page."""
