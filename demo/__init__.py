"""The parts of `jobs/demo.py`: servers, processes, steps, pictures and queries."""
