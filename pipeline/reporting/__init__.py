"""What `pipeline.report` is made of: figures, gallery, page."""
