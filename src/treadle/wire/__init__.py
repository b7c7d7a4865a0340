"""Messages, frames and values: bytes to objects and back. No sockets."""
