"""Unit tests of the embeddings package."""
