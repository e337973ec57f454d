"""What a document says, as immutable values."""
