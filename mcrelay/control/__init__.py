"""The control socket: requests, replies, who may change what."""
