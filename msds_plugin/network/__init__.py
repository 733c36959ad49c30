"""How a frozen feature network runs: its table, its convolutions, its weights, large maps in pieces."""
