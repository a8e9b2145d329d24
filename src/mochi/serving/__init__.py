"""The server: two HTTP dialects over one durable queue, and the client for it."""
