"""COCO files: read with one set of checks (`content`), and written (`writing`)."""
