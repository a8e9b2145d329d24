"""Text: prompts to T5 features, and tokenizers for small models."""
