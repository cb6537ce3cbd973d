"""What `pipeline.score` is made of: plan, CPU stage, passes through the model, whole shards, account."""
