"""Makes tars for `jobs/pack.py`: of the images of a plan, or of tars that are compressed as a whole."""
