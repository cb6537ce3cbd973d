"""What `jobs/demo.py` is made of: servers, processes, steps, pictures and questions."""
