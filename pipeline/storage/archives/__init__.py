"""Opens archives of images: tar, zip and Parquet. Start with `index`, then `reading`."""
