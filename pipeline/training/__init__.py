"""What `pipeline.train` is made of: data and its checks, the plan, the loop of a worker, what it writes."""
