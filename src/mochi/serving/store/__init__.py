"""Everything that outlives a process: jobs, files, tokens, webhooks to send, measured times."""
