"""What the commands have in common: options, data sets, what the terminal shows, signals."""
