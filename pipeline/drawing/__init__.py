"""Makes pictures: boxes on images, curves, and drawn scenes."""
