"""The parts of the scoring job (`pipeline.score`): checks, CPU stage, Detector actors, progress, summary."""
