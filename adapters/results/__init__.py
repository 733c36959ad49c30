"""Where scores go: a store that survives a kill, and tables in csv, json and parquet files."""
