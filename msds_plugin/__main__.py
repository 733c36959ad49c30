"""``python -m msds_plugin``: the command line ``msds``."""

from msds_plugin.adapters.cli import main

if __name__ == "__main__":
    main()
