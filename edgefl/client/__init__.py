"""One device in a federation: answers what the server asks, trains on its own samples, returns what it trained."""
