"""From a document to its entries: what cannot be meant, what is left open, what wants a second look."""
