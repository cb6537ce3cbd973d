"""Code that every job uses while it runs: command line, cluster, progress, read-ahead, attempts."""
