"""What every job needs while it runs: command line, cluster, progress, read-ahead, attempts."""
