"""The form of a policy document: its tables, what each member may hold, and how complaints read."""
