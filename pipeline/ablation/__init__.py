"""What `pipeline.ablate` is made of: the comparisons, a trial of each setting, the table of them all."""
