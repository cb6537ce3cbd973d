"""Pictures: boxes on images, curves, drawn scenes."""
