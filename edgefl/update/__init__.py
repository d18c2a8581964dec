"""What server and device say to each other about a round; the wire form is docs/protocol.md."""
