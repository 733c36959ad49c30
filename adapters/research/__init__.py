"""Studies of metrics: robustness, layers and backbones, published tables, training of SPIPS, and the demonstration."""
