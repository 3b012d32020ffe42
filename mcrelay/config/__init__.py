"""Configuration: text to values and back, every complaint at once; what differs between two of them."""
