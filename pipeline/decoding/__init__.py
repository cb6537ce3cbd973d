"""What `pipeline.images` is made of: what a file may be, the decoders, the fence around one of them."""
