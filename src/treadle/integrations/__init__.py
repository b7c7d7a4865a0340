"""What connects Treadle with libraries that people already use. Nothing here is imported before it is needed."""
