"""Worker processes and the messages exchanged with them."""
