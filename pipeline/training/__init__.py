"""The parts of `pipeline.train`: reading and checking the data, the plan, the worker's loop, and its
outputs."""
