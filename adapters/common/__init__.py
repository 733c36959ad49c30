"""What the adapters of both toolkits share: the face of a metric, names with options, borrowed weights."""
